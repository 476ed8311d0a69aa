// What was done, so that it can be taken back. A step is a list of changes {key, before, after}.

export class History {
  constructor(limit = 1000) {
    this.limit = limit;
    this.done = [];
    this.undone = [];
  }

  /** Remembers a step; changes that change nothing are left out. What was undone is forgotten. */
  push(changes) {
    const step = changes.filter(({ before, after }) => before !== after);
    if (!step.length) return;
    this.done.push(step);
    this.undone = [];
    if (this.done.length > this.limit) this.done.shift();
  }

  /** The changes that take back the latest step, or null. */
  undo() {
    const step = this.done.pop();
    if (!step) return null;
    this.undone.push(step);
    return step.map(({ key, before, after }) => ({ key, before: after, after: before })).reverse();
  }

  /** The changes that do again what was undone last, or null. */
  redo() {
    const step = this.undone.pop();
    if (!step) return null;
    this.done.push(step);
    return step;
  }

  get canUndo() {
    return this.done.length > 0;
  }

  get canRedo() {
    return this.undone.length > 0;
  }
}
