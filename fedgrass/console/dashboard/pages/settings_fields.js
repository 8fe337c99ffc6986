// The fields of a form. Every change is reported with all values, so that the server has them when it is asked.
export default {
  props: { fields: { type: Array, default: () => [] }, more: { type: String, default: "More settings" } },
  emits: ["change"],
  data() {
    return { values: Object.fromEntries(this.fields.map((f) => [f.name, f.kind === "flag" ? f.value === "true" : f.value])) };
  },
  computed: {
    groups() {
      return [
        { title: "", fields: this.fields.filter((f) => f.first) },
        { title: this.more, fields: this.fields.filter((f) => !f.first) },
      ];
    },
  },
  methods: {
    report() {
      this.$emit("change", { ...this.values });
    },
    id: (field) => "field-" + field.name,
  },
  template: `
    <div class="fields">
      <component v-for="group in groups" :key="group.title" :is="group.title ? 'details' : 'div'" v-show="group.fields.length">
        <summary v-if="group.title">{{ group.title }}</summary>
        <div class="field-grid">
          <div v-for="field in group.fields" :key="field.name" class="field">
            <label :for="id(field)">{{ field.label }}<b v-if="field.required" aria-hidden="true"> *</b></label>
            <select v-if="field.kind === 'choice'" :id="id(field)" v-model="values[field.name]" @change="report">
              <option v-for="choice in field.choices" :key="choice" :value="choice">{{ choice }}</option>
            </select>
            <input v-else-if="field.kind === 'flag'" :id="id(field)" type="checkbox" v-model="values[field.name]" @change="report">
            <textarea v-else-if="field.kind === 'json'" :id="id(field)" rows="1" v-model="values[field.name]" spellcheck="false" @input="report"></textarea>
            <template v-else>
              <input :id="id(field)" type="text" v-model="values[field.name]" :required="field.required" spellcheck="false" autocomplete="off"
                     :inputmode="field.kind === 'whole' ? 'numeric' : field.kind === 'number' ? 'decimal' : null"
                     :list="field.choices.length ? id(field) + '-known' : null"
                     :aria-describedby="field.help ? id(field) + '-help' : null" @input="report">
              <datalist v-if="field.choices.length" :id="id(field) + '-known'"><option v-for="choice in field.choices" :key="choice" :value="choice"></option></datalist>
            </template>
            <small v-if="field.help" :id="id(field) + '-help'">{{ field.help }}</small>
          </div>
        </div>
      </component>
    </div>`,
};
