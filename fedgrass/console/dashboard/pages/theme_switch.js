// Light, dark, or as the system: kept in this browser.
const KEY = "fedgrass-theme";
const THEMES = ["system", "light", "dark"];
export default {
  data() {
    const kept = localStorage.getItem(KEY);
    return { theme: THEMES.includes(kept) ? kept : "system" };
  },
  methods: {
    apply() {
      if (this.theme === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = this.theme;
      localStorage.setItem(KEY, this.theme);
    },
  },
  created() {
    this.apply();
  },
  template: `
    <label class="theme"><span class="for-readers">Colours</span>
      <select v-model="theme" @change="apply">
        <option value="system">system colours</option><option value="light">light</option><option value="dark">dark</option>
      </select>
    </label>`,
};
