// Which key means what.

const COMMANDS = {
  ArrowLeft: "left",
  ArrowRight: "right",
  ArrowUp: "up",
  ArrowDown: "down",
  Home: "first",
  End: "last",
  y: "positive",
  n: "negative",
  u: "unsure",
  x: "clear",
  z: "undo",
  Z: "redo",
  a: "select-all",
  c: "contours",
  s: "scores",
  "[": "previous-page",
  "]": "next-page",
  "?": "help",
  Escape: "let-go",
};

/** Signs that many keyboards have only with Alt or AltGr, which some systems report as Ctrl and Alt. */
const SIGNS = new Set(["[", "]", "?"]);

/** The command of a keyboard event, or null. Caps lock changes nothing. */
export function commandOf(event) {
  if (event.isComposing) return null;
  if (event.altKey) return SIGNS.has(event.key) ? COMMANDS[event.key] : null;
  if (event.ctrlKey || event.metaKey) return withControl(event);
  const capsLock = Boolean(event.getModifierState?.("CapsLock"));
  const key = event.key.length === 1 && capsLock ? swapCase(event.key) : event.key;
  return COMMANDS[key] ?? COMMANDS[key.toLowerCase()] ?? null;
}

function withControl(event) {
  const key = event.key.toLowerCase();
  if (key === "z") return event.shiftKey ? "redo" : "undo";
  return null;
}

function swapCase(letter) {
  const upper = letter.toUpperCase();
  return letter === upper ? letter.toLowerCase() : upper;
}
