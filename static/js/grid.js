// Moving among cards that lie in rows.

/**
 * The card reached from `index` by a move.
 *
 * @param {"left"|"right"|"up"|"down"|"first"|"last"} move
 * @param {number} columns - cards in a row.
 * @param {number} count - cards in all.
 */
export function moved(index, move, columns, count) {
  const step = { left: -1, right: 1, up: -columns, down: columns }[move];
  if (move === "first") return 0;
  if (move === "last") return count - 1;
  const target = index + step;
  if (target >= 0 && target < count) return target;
  const inLastRow = Math.floor(index / columns) === Math.floor((count - 1) / columns);
  // from above a gap in the last row, down leads to the last card
  return move === "down" && !inLastRow ? count - 1 : index;
}
