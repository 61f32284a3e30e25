// Charts, sorting, and the choice of the model that is shown. Loads nothing.
const specs = JSON.parse(document.getElementById("specs").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = { model: document.getElementById("model").value };
let drawn = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The look of all charts, from the colours of the page. */
function look() {
  const [ink, muted, line, accent] = ["--ink", "--muted", "--line", "--accent"].map(colour);
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: null,
    font,
    view: { stroke: null },
    axis: {
      labelColor: muted, titleColor: muted, titleFontWeight: "normal", labelFontSize: 12,
      titleFontSize: 12, gridColor: line, domainColor: line, tickColor: line, titlePadding: 8,
    },
    legend: { labelColor: ink, titleColor: muted, labelFontSize: 12 },
    mark: { color: accent },
    bar: { cornerRadiusEnd: 3 },
    rule: { color: accent, strokeWidth: 1.5, opacity: 0.55 },
    text: { color: ink, fontSize: 12 },
    style: {
      quiet: { color: muted, stroke: muted },
      people: { color: colour("--people"), fill: colour("--people"), stroke: colour("--people") },
      ink: { fill: ink },
      dot: { fill: accent, stroke: accent },
      cell: { stroke: colour("--paper"), strokeWidth: 2 },
    },
    range: {
      category: [1, 2, 3, 4, 5, 6, 7, 8].map((k) => colour(`--c${k}`)),
      heatmap: [colour("--cold"), colour("--hot")],
      ramp: [colour("--cold"), colour("--hot")],
    },
  };
}

async function draw() {
  for (const result of drawn) result.finalize();
  const config = look();
  const options = {
    actions: false, ast: true, renderer: "svg", config, defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  drawn = await Promise.all(
    [...document.querySelectorAll("[data-chart]")].map((element) =>
      window.vegaEmbed(element, specs[element.dataset.chart], options),
    ),
  );
  Object.keys(chosen).forEach(show);
  document.documentElement.dataset.drawn = String(drawn.length);
}

/** Hand a chosen value to the charts that have a parameter of that name. */
function show(name) {
  for (const { view, spec } of drawn) {
    if ((spec.params ?? []).some((param) => param.name === name)) {
      view.signal(name, chosen[name]).runAsync();
    }
  }
}

function choose(name, value) {
  chosen[name] = value;
  show(name);
}

function sort(button) {
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  const value = (row) => {
    const cell = row.cells[head.cellIndex];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
  const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)) * (up ? 1 : -1));
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}

document.getElementById("model").addEventListener("change", ({ target }) => {
  choose("model", target.value);
  for (const part of document.querySelectorAll("[data-model]")) {
    part.hidden = part.dataset.model !== target.value;
  }
  for (const part of document.querySelectorAll("[data-shown]")) part.textContent = target.value;
});
for (const select of document.querySelectorAll("[data-signal]")) {
  chosen[select.dataset.signal] = select.value;
  select.addEventListener("change", () => choose(select.dataset.signal, select.value));
}
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sort(button));
}
dark.addEventListener("change", draw);
await draw();
