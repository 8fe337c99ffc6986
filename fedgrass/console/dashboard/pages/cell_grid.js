// One cell per device, or per block of devices: colour and word. Texts are rendered as texts by Vue.
export default {
  props: { cells: { type: Array, default: () => [] }, label: String, chosen: String },
  emits: ["choose"],
  template: `
    <ul class="cells" :aria-label="label">
      <li v-for="cell in cells" :key="cell.id">
        <button type="button" :class="['cell', 'tone-' + cell.tone]" :title="cell.note || null"
                :aria-pressed="cell.id === chosen ? 'true' : 'false'" @click="$emit('choose', cell.id)">
          <span class="cell-name">{{ cell.name }}</span>
          <span class="cell-word">{{ cell.word }}</span>
          <span v-if="cell.share !== null" class="cell-bar" aria-hidden="true"><i :style="{ width: cell.share + '%' }"></i></span>
        </button>
      </li>
    </ul>`,
};
