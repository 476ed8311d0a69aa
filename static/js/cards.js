// A page of cards: the annotator's commands, from key or click to label.

import { UNLABELLED, WORDS } from "./cells.js";
import { Board, showCounts } from "./board.js";
import { History } from "./history.js";
import { commandOf } from "./keys.js";
import { cellInHash } from "./lookup.js";
import { notify } from "./messages.js";
import { Session } from "./session.js";

const MOVES = new Set(["left", "right", "up", "down"]);

export class CardsPage {
  constructor(settings) {
    this.settings = settings;
    this.board = new Board(document.querySelector("main.grid"));
    this.session = new Session(settings, () => this.refresh());
    this.history = new History();
    this.answers = new Map();
    this.countPlaces = [...document.querySelectorAll("[data-count]")].map((place) => [place.dataset.count, place]);
    this.meter = document.querySelector("header .meter");
    this.since = performance.now();
    this.buttons = new Map([...document.querySelectorAll("[data-action]")].map((b) => [b.dataset.action, b]));
  }

  async start() {
    this.refresh();
    this.#applySettings();
    this.#listen();
    const { site_id, cell_type, page } = this.settings;
    this.session.store.write("last", JSON.stringify([site_id, cell_type, page]));
    if (cellInHash(location.hash) === null) this.board.goTo(this.board.firstUnlabelled());
    else await this.#followHash();
    await this.#showAnswers();
  }

  /** Shows the answers to cells that were shown again: they are in the log alone. */
  async #showAnswers() {
    const { current } = this.board;
    const wasUnlabelled = current.state === UNLABELLED;
    this.answers = new Map([...(await this.session.log.answers(this.settings.repeat_policy)), ...this.answers]);
    this.refresh();
    const isTaken = wasUnlabelled && current === this.board.current && current.state !== UNLABELLED;
    if (isTaken) this.board.goTo(this.board.firstUnlabelled());
  }

  /** Shows what the store holds. */
  refresh() {
    for (const card of this.board.cards) this.#refreshCard(card);
    this.#showCounts();
    this.session.showState();
  }

  /** Does what a key or button asks for. */
  run(command) {
    const session = this.session;
    const commands = {
      positive: () => this.label("positive"),
      negative: () => this.label("negative"),
      unsure: () => this.label("unsure"),
      clear: () => this.label(UNLABELLED),
      undo: () => this.#replay(this.history.undo(), "undo"),
      redo: () => this.#replay(this.history.redo(), "redo"),
      "select-all": () => this.#selectAll(),
      "let-go": () => this.#letGo(),
      contours: () => this.#toggle("contours"),
      scores: () => this.buttons.has("scores") && this.#toggle("scores"),
      "previous-page": () => this.#turn("prev"),
      "next-page": () => this.#turn("next"),
      help: () => session.help(),
      export: () => session.export(),
      import: () => session.import(),
      annotator: () => session.name(),
      "close-hint": () => this.#closeHint(),
    };
    if (commands[command]) commands[command]();
    else this.board.move(command);
  }

  /** Labels the selection, or the current card and moves on. */
  label(state) {
    const isBulk = this.board.selection.size > 0;
    if (!isBulk && !this.board.isInSight()) {
      this.board.goTo(this.board.current);
      return notify("The current card was out of sight, and got no label yet.");
    }
    const cards = this.board.targets();
    this.#apply(cards, state, isBulk ? "bulk" : "key");
    if (isBulk) {
      this.board.select([]);
      notify(`${cards.length} ${cards.length === 1 ? "card" : "cards"}: ${WORDS[state]}. z or Undo takes it back.`);
    } else if (state !== UNLABELLED && !this.board.move("right") && this.board.isComplete()) {
      const isLast = !document.querySelector(".where a[rel=next]");
      const next = isLast ? "It is the last page: time to export." : "] leads to the next page.";
      notify(`Every card of this page has a label. ${next}`);
    }
  }

  #apply(cards, state, by) {
    const changes = cards.map((card) => ({ key: card.key, before: card.state, after: state }));
    this.history.push(changes);
    this.#change(cards.map((card) => [card, state]), by);
  }

  /** Shows, keeps and logs new states of cards: the one way in which a label changes here. */
  #change(cardsAndStates, by) {
    const at = new Date().toISOString();
    const dwell_ms = Math.round(performance.now() - this.since);
    const { policy, repeat_policy, inclusion_prob } = this.settings;
    const { annotator } = this.session;
    const events = [];
    for (const [card, label] of cardsAndStates) {
      if (card.isRepeat) this.answers.set(card.id, label);
      else this.session.keep(card.id, label);
      this.board.paint(card, label);
      const shown = { policy: card.isRepeat ? repeat_policy : policy, inclusion_prob: inclusion_prob[card.place] };
      events.push({ cell_id: card.id, label, at, dwell_ms, by, ...shown, annotator });
    }
    this.since = performance.now();
    this.session.log.add(events);
    this.session.countUnexported(events.length);
    this.#showCounts();
  }

  #replay(changes, by) {
    if (!changes) return notify(`There is nothing to ${by}.`);
    const cards = changes.map(({ key, before, after }) => ({ card: this.board.byKey.get(key), before, after }));
    const fitting = cards.filter(({ card, before }) => card.state === before);
    this.#change(fitting.map(({ card, after }) => [card, after]), by);
    if (fitting.length < cards.length) notify("A label was changed in another tab meanwhile, and stays as it is.");
    this.board.goTo(cards[0].card);
  }

  /** Selects every card; if every card is selected, lets go. */
  #selectAll() {
    const { board } = this;
    if (board.selection.size === board.cards.length) return this.#letGo();
    board.select(board.cards);
    notify(`${board.cards.length} cards selected: the next answer is for them all. Esc or Select all lets go.`);
  }

  #letGo() {
    if (this.board.selection.size) notify("No card is selected.");
    this.board.select([]);
  }

  #refreshCard(card) {
    const state = card.isRepeat ? this.answers.get(card.id) : this.session.store.get(card.id);
    this.board.paint(card, state ?? UNLABELLED);
  }

  #showCounts() {
    showCounts(this.board.counts, this.countPlaces, this.meter);
    this.buttons.get("undo").disabled = !this.history.canUndo;
    this.buttons.get("redo").disabled = !this.history.canRedo;
  }

  #applySettings() {
    const { store } = this.session;
    const { bar_um, side_um } = this.settings;
    this.board.main.style.setProperty("--bar", `${(100 * bar_um) / side_um}%`);
    this.board.main.style.setProperty("--bar-label", `"${bar_um} µm"`);
    this.#show("contours", store.setting("contours") !== "off");
    if (this.buttons.has("scores")) this.#show("scores", store.setting("scores") === "on");
    document.getElementById("hint").hidden = store.setting("hint") === "read";
  }

  #toggle(name) {
    const isOn = !document.body.classList.contains(`with-${name}`);
    this.#show(name, isOn);
    this.session.store.write(name, isOn ? "on" : "off");
  }

  #show(name, isOn) {
    document.body.classList.toggle(`with-${name}`, isOn);
    this.buttons.get(name).setAttribute("aria-pressed", String(isOn));
  }

  #closeHint() {
    document.getElementById("hint").hidden = true;
    this.session.store.write("hint", "read");
  }

  async #turn(rel) {
    const link = document.querySelector(`.where a[rel=${rel}]`);
    if (!link) return notify(rel === "next" ? "This is the last page." : "This is the first page.");
    await this.session.log.flush();
    location.assign(link.href);
  }

  #followHash() {
    return this.session.followHash((id) => {
      const card = this.board.byKey.get(id);
      if (card) this.board.goTo(card);
      return Boolean(card);
    });
  }

  #listen() {
    document.addEventListener("keydown", (event) => this.#onKey(event));
    document.addEventListener("click", (event) => this.#onClick(event));
    this.board.main.addEventListener("focusin", (event) => {
      const card = this.board.cardAt(event.target);
      if (card) this.board.goTo(card, false);
    });
    addEventListener("hashchange", () => this.#followHash());
    addEventListener("storage", (event) => this.#onStorage(event));
    addEventListener("pagehide", () => this.#rememberProgress());
    addEventListener("pageshow", (event) => event.persisted && this.refresh());
    document.addEventListener("visibilitychange", () => (this.since = performance.now()));
  }

  /** For the overview alone: how far this page is, in this arrangement of the site. */
  #rememberProgress() {
    const { site_id, cell_type, page } = this.settings;
    const { left, ...given } = this.board.counts;
    const labelled = given.positive + given.negative + given.unsure;
    const percent = Math.floor((100 * labelled) / (labelled + left));
    this.session.store.write(`progress/${site_id}/${cell_type}/${page}`, String(percent));
  }

  #onKey(event) {
    const command = commandOf(event);
    const isTyping = event.target.matches?.("input, textarea, select") || document.querySelector("dialog[open]");
    if (!command || isTyping) return;
    event.preventDefault();
    if (event.repeat && !MOVES.has(command)) return; // a key held down must not label a row of cells
    this.run(command);
  }

  #onClick(event) {
    const button = event.target.closest("button");
    if (button?.dataset.action && !button.closest("dialog")) return this.run(button.dataset.action);
    const card = this.board.cardAt(event.target);
    if (!card) return;
    if (button?.dataset.label) this.#onAnswer(card, button.dataset.label, event.detail);
    else if (event.shiftKey) this.board.selectTo(card);
    else if (event.ctrlKey || event.metaKey) this.board.toggle(card);
    else {
      this.board.select([]);
      this.board.goTo(card);
    }
  }

  /** A button of a selected card answers for the selection; the pressed button of a card takes its label off. */
  #onAnswer(card, label, clicks) {
    if (this.board.selection.has(card)) return this.label(label);
    const isPressed = card.state === label;
    if (isPressed && clicks > 1) return; // the second half of a double click
    this.#apply([card], isPressed ? UNLABELLED : label, "click");
    this.board.goTo(card, false);
  }

  #onStorage(event) {
    const changed = this.session.store.changed(event);
    if (changed === "all") this.refresh();
    const card = changed && this.board.byKey.get(changed);
    if (!card) return;
    this.#refreshCard(card);
    this.#showCounts();
  }
}
