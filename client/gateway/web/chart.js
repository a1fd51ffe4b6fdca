// Charts as SVG: the loss curve of a training and the sparkline of a tile. Knows points, no jobs.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Round numbers that divide low..high into about `count` parts.
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) out.push(+t.toPrecision(12));
  return out;
}

// points: [[step, loss, accuracy or null], ...]; steps: where the axis ends; width in pixels.
function lossChart(points, steps, width) {
  const height = 230, left = 46, right = 46, top = 10, bottom = 24;
  const losses = points.map((p) => p[1]).filter(Number.isFinite);
  const highest = Math.max(...losses, 1e-9);
  const lowest = Math.min(...losses, highest);
  const low = lowest > 0 && lowest > highest / 3 ? lowest * 0.9 : 0;
  const high = highest * 1.05;
  const end = Math.max(steps || 0, points[points.length - 1][0], 1);
  const x = (step) => left + (step / end) * (width - left - right);
  const y = (loss) => top + (1 - (loss - low) / (high - low || 1)) * (height - top - bottom);
  const ya = (accuracy) => top + (1 - accuracy) * (height - top - bottom);
  const path = (at) => "M" + at.map(([a, b]) => a.toFixed(1) + "," + b.toFixed(1)).join("L");
  const last = points[points.length - 1];
  const said = `Loss ${last[1].toPrecision(3)} after step ${last[0]}` +
    (last[2] === null ? "" : `, accuracy ${(100 * last[2]).toFixed(1)} %`);
  const chart = svg("svg", {class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said});
  for (const t of ticks(low, high, 4)) {
    chart.append(svg("line", {class: "grid", x1: left, x2: width - right, y1: y(t), y2: y(t)}),
      svg("text", {x: left - 6, y: y(t) + 4, "text-anchor": "end"}, String(t)));
  }
  for (const t of ticks(0, end, width / 130)) {
    chart.append(svg("text", {x: x(t), y: height - 6, "text-anchor": "middle"}, String(t)));
  }
  const scored = points.filter((p) => p[2] !== null);
  if (scored.length > 1) {
    for (const t of [0, 0.5, 1]) {
      chart.append(svg("text", {x: width - right + 6, y: ya(t) + 4}, `${100 * t} %`));
    }
    chart.append(svg("path", {class: "accuracy", d: path(scored.map((p) => [x(p[0]), ya(p[2])]))}));
  }
  chart.append(svg("path", {class: "loss", d: path(points.map((p) => [x(p[0]), y(p[1])]))}));
  return chart;
}

// values: oldest first.
function sparkline(values) {
  const width = 120, height = 26, top = Math.max(...values, 1e-9);
  const at = values.map((v, i) =>
    `${((i / Math.max(1, values.length - 1)) * width).toFixed(1)},${(height - 2 - (v / top) * (height - 4)).toFixed(1)}`);
  return svg("svg", {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true"},
    svg("path", {class: "spark", d: "M" + at.join("L")}));
}
