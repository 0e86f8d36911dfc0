"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const touch = !matchMedia("(hover: hover)").matches; // a finger on a plot is to scroll the page, not to zoom
const config = {
  responsive: true,
  displaylogo: false,
  displayModeBar: touch ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]],
};

function colors() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { bg: of("bg"), ink: of("ink"), grid: of("grid"), soft: of("soft"), panel: of("panel") };
}

function themed(layout) {
  const { bg, ink, grid, soft, panel } = colors();
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: soft, zerolinewidth: 1.5 };
  return {
    ...layout,
    font: { color: ink, size: 12, family: 'system-ui, -apple-system, "Segoe UI", sans-serif' },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    annotations: layout.annotations?.map((name) => ({ ...name, bgcolor: bg, borderpad: 1 })),
    hoverlabel: { bgcolor: panel, bordercolor: soft, font: { color: ink }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
    dragmode: touch ? false : "zoom",
    uirevision: "kept", // a change of colours leaves the part that a reader zoomed to
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis },
  };
}

async function draw() {
  for (const [id, figure] of Object.entries(plots)) {
    await Plotly.newPlot(id, figure.data, themed(figure.layout), config);
    await new Promise((next) => setTimeout(next)); // the page answers between two plots
  }
  document.body.dataset.drawn = Object.keys(plots).length;
}

function recolor() {
  for (const id of Object.keys(plots)) {
    const element = document.getElementById(id);
    if (element.data) Plotly.react(id, element.data, themed(plots[id].layout), config);
  }
}

// A setting's button shows or hides its traces in all plots of its section.
function toggle(button) {
  const on = button.getAttribute("aria-pressed") === "false";
  button.setAttribute("aria-pressed", String(on));
  for (const element of button.closest("section").querySelectorAll(".plot")) {
    const own = (element.data || []).flatMap((trace, place) => (trace.meta === button.dataset.name ? [place] : []));
    if (own.length) Plotly.restyle(element, { visible: on }, own);
  }
}

// What a cell sorts by: the number it begins with, else its text. Numbers stand before words and words before nothing,
// in either direction.
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const found = text.match(/^[+-]?[\d,]*\.?\d+(e[+-]?\d+)?/i);
  if (found) return [0, Number(found[0].replaceAll(",", ""))];
  return text === "" || text === "-" ? [2, text] : [1, text];
}

function order([kind, one], [otherKind, other]) {
  if (kind !== otherKind || kind === 2) return 0;
  return kind === 0 ? one - other : one.localeCompare(other, undefined, { numeric: true });
}

function sort(button) {
  const header = button.closest("th");
  const column = header.cellIndex;
  const body = header.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => [value(row, column), row]);
  const numeric = rows.some(([[kind]]) => kind === 0);
  const before = header.getAttribute("aria-sort"); // numbers begin with the largest, words with A
  const down = before === "none" ? numeric : before === "ascending";
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  rows.sort(([one], [other]) => one[0] - other[0] || (down ? order(other, one) : order(one, other)));
  body.append(...rows.map(([, row]) => row));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.closest("thead")) sort(button);
  else if (button?.closest(".legend")) toggle(button);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
draw();
