// What the page shows the annotator: passing notices, a warning that stays, dialogs.

const NOTICE_MS = 5000;

/** Shows a sentence at the foot of the window for a few seconds. */
export function notify(text) {
  const notice = document.createElement("p");
  notice.textContent = text;
  const list = document.getElementById("notices");
  list.replaceChildren(notice);
  setTimeout(() => notice.remove(), NOTICE_MS);
}

/** Shows a warning above the cards until it no longer holds; an empty text takes it away. */
export function warn(text) {
  const warning = document.getElementById("warning");
  if (warning.textContent === text) return;
  warning.textContent = text;
  warning.hidden = !text;
}

/** Opens a dialog; its `[data-action=close-dialog]` buttons close it, and so does Escape. */
export function openDialog(id) {
  const dialog = document.getElementById(id);
  for (const button of dialog.querySelectorAll("[data-action=close-dialog]")) button.onclick = () => dialog.close();
  if (!dialog.open) dialog.showModal();
  return dialog;
}

/** Asks for the annotator's name; resolves to the text given, or null. */
export function askName(current) {
  const dialog = openDialog("annotator");
  const field = dialog.querySelector("input");
  field.value = current;
  field.select();
  return new Promise((resolve) => {
    const save = () => {
      resolve(field.value.trim());
      dialog.close();
    };
    dialog.querySelector("[data-action=save-annotator]").onclick = save;
    field.onkeydown = (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault(); // or else the same press reaches the button that gets the focus back
      save();
    };
    dialog.onclose = () => resolve(null);
  });
}

/**
 * Asks what to do about labels that differ from a file's; resolves to a Map of cell id to the label to
 * take, or null if the import is called off.
 *
 * @param {{id: string, mine: string, theirs: string}[]} conflicts
 * @param {string} facts - what else the import brings.
 * @param {(id: string) => string | Node} likenessOf - what represents a cell in the list.
 */
export function askConflicts(conflicts, facts, likenessOf) {
  const dialog = openDialog("conflicts");
  dialog.querySelector("#conflicts-facts").textContent = facts;
  const list = dialog.querySelector("#conflict-list");
  const details = dialog.querySelector("details");
  const apply = dialog.querySelector("[data-choice=listed]");
  details.open = false;
  apply.hidden = true;
  details.ontoggle = () => {
    if (details.open && !list.children.length) list.append(conflictTable(conflicts, likenessOf));
    apply.hidden = !details.open;
  };
  list.replaceChildren();
  return new Promise((resolve) => {
    const choices = {
      mine: () => new Map(),
      theirs: () => new Map(conflicts.map(({ id, theirs }) => [id, theirs])),
      listed: () => listedChoice(conflicts, list),
    };
    for (const [name, choose] of Object.entries(choices)) {
      dialog.querySelector(`[data-choice=${name}]`).onclick = () => {
        resolve(choose());
        dialog.close();
      };
    }
    dialog.onclose = () => resolve(null);
  });
}

function conflictTable(conflicts, likenessOf) {
  const table = document.createElement("table");
  table.append(row("th", ["Cell", "Mine", "The file's"]));
  conflicts.forEach(({ id, mine, theirs }, i) => {
    table.append(row("td", [likenessOf(id), choice(i, "mine", mine, true), choice(i, "theirs", theirs, false)]));
  });
  return table;
}

function row(tag, contents) {
  const line = document.createElement("tr");
  for (const content of contents) {
    const cell = document.createElement(tag);
    cell.append(content);
    line.append(cell);
  }
  return line;
}

function choice(number, value, text, isChosen) {
  const label = document.createElement("label");
  const button = document.createElement("input");
  Object.assign(button, { type: "radio", name: `conflict-${number}`, value, checked: isChosen });
  label.append(button, ` ${text}`);
  return label;
}

function listedChoice(conflicts, list) {
  const taken = new Map();
  conflicts.forEach(({ id, theirs }, i) => {
    if (list.querySelector(`[name=conflict-${i}][value=theirs]`).checked) taken.set(id, theirs);
  });
  return taken;
}
