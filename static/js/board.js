// The cards of a page as they stand in the document: their states, which one is current, which are selected.

import { STATES, UNLABELLED, WORDS } from "./cells.js";
import { moved } from "./grid.js";

/** A card. A repeat shows a cell of an earlier page again; it looks and feels like any other. */
class Card {
  constructor(element, index) {
    this.element = element;
    this.index = index;
    this.isRepeat = element.dataset.cellId === undefined;
    this.id = element.dataset.cellId ?? element.dataset.repeatOf;
    this.place = element.querySelector("b").textContent;
    this.buttons = [...element.querySelectorAll("[data-label]")];
    this.name = `Card ${index + 1}, ${element.querySelector("p").textContent}`;
  }

  get state() {
    return this.element.dataset.state;
  }

  /** The key under which undo remembers this card: apart from the card that it may repeat. */
  get key() {
    return this.isRepeat ? `again/${this.id}` : this.id;
  }

  paint(state) {
    this.element.dataset.state = state;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.label === state));
    this.describe();
  }

  describe() {
    const selected = this.element.classList.contains("selected") ? ", selected" : "";
    this.element.setAttribute("aria-label", `${this.name}: ${WORDS[this.state]}${selected}`);
  }

  setReachable(isReachable) {
    for (const element of [this.element, ...this.buttons]) element.tabIndex = isReachable ? 0 : -1;
  }
}

export class Board {
  /** @param {HTMLElement} main - holds the cards. */
  constructor(main) {
    this.main = main;
    this.cards = [...main.querySelectorAll("article")].map((element, index) => new Card(element, index));
    this.byElement = new Map(this.cards.map((card) => [card.element, card]));
    this.byKey = new Map(this.cards.map((card) => [card.key, card]));
    this.selection = new Set();
    this.counts = { positive: 0, negative: 0, unsure: 0, left: this.cards.filter((card) => !card.isRepeat).length };
    this.columns = 0;
    this.current = this.cards[0];
    this.anchor = this.current;
    for (const card of this.cards) {
      card.setReachable(card === this.current);
      for (const button of card.buttons) button.setAttribute("aria-label", WORDS[button.dataset.label]);
      card.describe();
    }
    new ResizeObserver(() => (this.columns = 0)).observe(main);
  }

  /** Shows a state on a card and keeps the counts right; repeats are not counted. */
  paint(card, state) {
    if (!card.isRepeat) {
      this.counts[card.state === UNLABELLED ? "left" : card.state] -= 1;
      this.counts[state === UNLABELLED ? "left" : state] += 1;
    }
    card.paint(state);
  }

  cardAt(target) {
    return this.byElement.get(target.closest?.("article"));
  }

  /** The cards that a label goes to: the selected ones, or else the current one. */
  targets() {
    return this.selection.size ? this.cards.filter((card) => this.selection.has(card)) : [this.current];
  }

  /** Makes a card the current one; `focus` also moves the keyboard's focus and scrolls it into view. */
  goTo(card, focus = true) {
    if (card !== this.current) {
      this.current.setReachable(false);
      this.current.element.classList.remove("current");
    }
    this.current = card;
    card.setReachable(true);
    card.element.classList.add("current");
    if (!focus) return;
    this.anchor = card;
    card.element.focus({ preventScroll: true });
    card.element.scrollIntoView({ block: "nearest" });
  }

  /** Moves by "left", "right", "up", "down", "first" or "last"; false if that leads nowhere. */
  move(direction) {
    const from = this.current;
    this.columns ||= getComputedStyle(this.main).gridTemplateColumns.split(" ").length;
    this.goTo(this.cards[moved(from.index, direction, this.columns, this.cards.length)]);
    return this.current !== from;
  }

  /** Whether any of the current card can be seen. */
  isInSight() {
    const { top, bottom } = this.current.element.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  }

  firstUnlabelled() {
    return this.cards.find((card) => card.state === UNLABELLED) ?? this.cards[0];
  }

  /** Selects exactly these cards. */
  select(cards) {
    const before = this.selection;
    this.selection = new Set(cards);
    for (const card of new Set([...before, ...this.selection])) {
      card.element.classList.toggle("selected", this.selection.has(card));
      card.describe();
    }
  }

  toggle(card) {
    const cards = new Set(this.selection);
    if (!cards.delete(card)) cards.add(card);
    this.anchor = card;
    this.select(cards);
  }

  /** Selects all from the card that was chosen last to this one. */
  selectTo(card) {
    const [first, last] = [this.anchor.index, card.index].sort((a, b) => a - b);
    this.select([...this.selection, ...this.cards.slice(first, last + 1)]);
  }

  isComplete() {
    return this.cards.every((card) => card.state !== UNLABELLED);
  }
}

/** Shows counts in the elements marked `[data-count]`, and as the parts of a meter. */
export function showCounts(counts, places, meter) {
  for (const [name, place] of places) place.textContent = counts[name];
  if (meter) showMeter(meter, counts);
}

export function showMeter(meter, counts) {
  const total = Math.max(1, STATES.reduce((sum, state) => sum + counts[state], counts.left));
  STATES.forEach((state, i) => {
    meter.children[i].style.width = `${(100 * counts[state]) / total}%`;
  });
}
