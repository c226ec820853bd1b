"use strict";
// Print shows what the screen keeps folded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.dataset.was = d.open ? "1" : ""; d.open = true; }));
addEventListener("afterprint", () => document.querySelectorAll("details").forEach((d) => { d.open = d.dataset.was === "1"; }));

// A pointer on a learning curve reads its values: pixels of the drawn lines turned back by the axes' scales.
document.querySelectorAll("g[data-scales]").forEach((group) => {
  const svg = group.ownerSVGElement;
  const [x0, x1, xLow, xHigh, y0, y1, yLow, yHigh, isLog] = group.dataset.scales.split(" ").map(Number);
  const lines = [...group.querySelectorAll("path.line")].map((path) => ({
    label: path.dataset.label,
    points: path.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number)),
  }));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  const box = document.createElement("div");
  box.className = "readout";
  box.setAttribute("aria-hidden", "true");
  const valueAt = (row) => {
    const part = (row - y0) / (y1 - y0);
    return isLog ? yLow * (yHigh / yLow) ** part : yLow + part * (yHigh - yLow);
  };
  const show = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (!lines.length || place.x < x0 - 4 || place.x > x1 + 4) return hide();
    const nearest = lines.map(({ label, points }) => {
      const point = points.reduce((best, p) => (Math.abs(p[0] - place.x) < Math.abs(best[0] - place.x) ? p : best));
      return { label, column: point[0], value: valueAt(point[1]) };
    });
    const column = nearest.reduce((a, b) => (Math.abs(b.column - place.x) < Math.abs(a.column - place.x) ? b : a)).column;
    const step = Math.round(xLow + ((column - x0) / (x1 - x0)) * (xHigh - xLow));
    cursor.setAttribute("d", `M${column} ${y1}V${y0}`);
    group.append(cursor);
    box.replaceChildren(...[`step ${step}`, ...nearest.map((n) => `${n.label}: ${n.value.toPrecision(3)} ${group.dataset.unit}`)].map((text) => {
      const row = document.createElement("div");
      row.textContent = text;
      return row;
    }));
    document.body.append(box);
    const width = box.offsetWidth;
    box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`;
    box.style.top = `${Math.max(4, event.clientY - box.offsetHeight - 10)}px`;
  };
  const hide = () => { cursor.remove(); box.remove(); };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
});
