// A table. A cell is a text, or {text, tone, note}; with `choosable`, the first cell of a row is a button.
export default {
  props: {
    caption: String,
    columns: { type: Array, default: () => [] },
    rows: { type: Array, default: () => [] },
    empty: { type: String, default: "None." },
    choosable: Boolean,
    numeric: { type: Array, default: () => [] },
  },
  emits: ["choose"],
  methods: {
    text: (cell) => (cell !== null && typeof cell === "object" ? cell.text : cell),
    tone: (cell) => (cell !== null && typeof cell === "object" && cell.tone ? "word tone-" + cell.tone : ""),
    note: (cell) => (cell !== null && typeof cell === "object" && cell.note) || null,
  },
  template: `
    <div class="table" tabindex="0" role="group" :aria-label="caption">
      <p v-if="!rows.length" class="quiet">{{ empty }}</p>
      <table v-else>
        <caption class="for-readers">{{ caption }}</caption>
        <thead><tr><th v-for="(column, at) in columns" :key="at" scope="col" :class="{ number: numeric.includes(at) }">{{ column }}</th></tr></thead>
        <tbody>
          <tr v-for="row in rows" :key="row.id">
            <template v-for="(cell, at) in row.cells" :key="at">
              <th v-if="at === 0" scope="row">
                <button v-if="choosable" type="button" class="link" @click="$emit('choose', row.id)">{{ text(cell) }}</button>
                <span v-else :class="tone(cell)">{{ text(cell) }}</span>
              </th>
              <td v-else :class="{ number: numeric.includes(at) }" :title="note(cell)"><span :class="tone(cell)">{{ text(cell) }}</span></td>
            </template>
          </tr>
        </tbody>
      </table>
    </div>`,
};
