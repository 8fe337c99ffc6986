// The browser's own dialog: it keeps the focus inside, makes the rest inert, and Escape closes it.
export default {
  props: { label: String },
  emits: ["dismiss"],
  mounted() {
    this.$refs.dialog.showModal();
  },
  template: `<dialog ref="dialog" :aria-label="label" @cancel.prevent="$emit('dismiss')"><slot></slot></dialog>`,
};
