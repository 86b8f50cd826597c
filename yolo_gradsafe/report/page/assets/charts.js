"use strict";
/* Draws the panels over one axis of steps, and the heat map. Zoom and cursor are shared by all panels. */
const Charts = (() => {
  const MARGIN = { l: 62, r: 14, t: 8, b: 26 };
  const CONFIG = { displayModeBar: false, responsive: true, showTips: false };
  const FEWEST = 4; // steps that a zoom shows at least
  const panels = [];
  let data, full, range, cursor = null, busy = false;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const count = (number) => number.toLocaleString("en-US");
  const brief = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace("e+", "e");
    return size >= 1000 ? count(Math.round(value)) : String(Number(value.toPrecision(4)));
  };

  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle; else high = middle;
    }
    return Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
  }

  /* Whether single steps can be told apart: then the noise is what is looked at. */
  const close = () => range[1] - range[0] < 300;

  function trace(series, hidden, log, width, crowd) {
    const color = css(series.color);
    const y = log && !series.edge ? series.y.map((value) => (value > 0 ? value : null)) : series.y;
    const base = { type: "scatter", x: series.x, y, hoverinfo: "none", visible: !hidden.has(series.name) };
    if (series.kind === "marks") {
      const tight = series.x.length > width / 8;
      const size = { x: tight ? 6 : 9, circle: tight ? 3 : 4.5 }[series.symbol] || 8;
      return {
        ...base, mode: "markers", yaxis: series.edge ? "y2" : "y", cliponaxis: !series.edge,
        marker: { symbol: series.symbol, size, color, line: { width: series.symbol === "x" ? 1 : 0, color: css("card") } },
      };
    }
    const line = { color, width: series.kind === "faint" ? 0.8 : 1.8, dash: series.dash || "solid" };
    if (series.kind === "level") line.shape = "hvh";
    const few = series.kind === "line" && series.x.length <= 60;
    return {
      ...base, line, mode: few ? "lines+markers" : "lines", marker: { size: 4.5 }, connectgaps: false,
      opacity: series.kind === "faint" ? (close() ? 0.75 : Math.max(0.1, 0.4 / crowd)) : 1,
    };
  }

  function skips(panel, width) {
    const x = [], y = [];
    for (const step of panel.skipped) { x.push(step, step, null); y.push(0, 1, null); }
    const opacity = panel.skipped.length > width / 20 ? 0.22 : 0.55;
    return { type: "scatter", mode: "lines", x, y, yaxis: "y2", hoverinfo: "skip", opacity, line: { color: css("bad"), width: 1 } };
  }

  /* The extent of what is visible, with some air; in powers of ten on a logarithmic axis. */
  function extent(panel, hidden) {
    let low = Infinity, high = -Infinity;
    for (const series of panel.series) {
      if (hidden.has(series.name) || series.edge) continue;
      series.x.forEach((x, i) => {
        const y = series.y[i];
        if (y === null || x < range[0] - 1 || x > range[1] + 1 || (panel.log && y <= 0)) return;
        low = Math.min(low, y); high = Math.max(high, y);
      });
    }
    if (low > high) return panel.log ? [0, 1] : [0, 1];
    if (panel.log) { low = Math.log10(low); high = Math.log10(high); }
    else if (low > 0 && low < 0.5 * high) low = 0;
    const air = (high - low || Math.abs(high) * 0.5 || 1) * 0.09;
    return [low === 0 && !panel.log ? 0 : low - air, high + air];
  }

  /* Ticks that read as plain numbers: powers of the base, or 1, 2 and 5 times them where the axis spans little. */
  function logTicks([low, high], base) {
    const unit = Math.log10(base), powers = (high - low) / unit;
    const factors = base === 10 && powers < 1.6 ? [1, 2, 5] : [1], every = Math.max(1, Math.ceil(powers / 6)), tickvals = [];
    for (let power = Math.floor(low / unit); power <= high / unit; power += 1) {
      if (power % every === 0) tickvals.push(...factors.map((factor) => factor * base ** power));
    }
    return { tickvals, ticktext: tickvals.map((value) => (value >= 1e5 && base === 10 ? value.toExponential(0).replace("e+", "e") : brief(value))) };
  }

  function layout(panel, hidden, last, width) {
    const axis = { color: css("muted"), gridcolor: css("grid"), zeroline: false, linecolor: css("line"), tickfont: { size: 11 }, fixedrange: true };
    const y = extent(panel, hidden);
    const ticks = panel.log ? logTicks(y, panel.base) : { nticks: 6 };
    const starts = data.epochs.filter(([step]) => step > range[0] && step < range[1]);
    const most = Math.max(2, Math.min(12, Math.floor((width - MARGIN.l - MARGIN.r) / 50))); // names side by side
    const every = Math.max(1, Math.ceil(starts.length / most));
    const rule = starts.filter((_, i) => i % every === 0).map(([step]) => (
      { type: "line", x0: step - 0.5, x1: step - 0.5, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: css("line"), width: 1, dash: "dot" } }));
    const labels = rule.map((line, i) => ({
      x: line.x0, xref: "x", xanchor: "left", y: 1, yref: "paper", yanchor: "top", showarrow: false, borderpad: 1,
      text: `${i ? "" : "epoch "}${starts.filter((_, n) => n % every === 0)[i][1]}`, font: { size: 10, color: css("muted") } }));
    return {
      annotations: labels, height: panel.height, margin: { ...MARGIN, b: last ? 40 : MARGIN.b }, showlegend: false, hovermode: "x", hoverdistance: -1,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("sans"), size: 12, color: css("soft") }, shapes: rule,
      xaxis: { ...axis, fixedrange: false, range: [...range], showgrid: false, tickformat: ",~r", ticks: "outside", ticklen: 4, tickcolor: css("line"),
        title: last ? { text: data.unit || "optimizer step", font: { size: 12, color: css("muted") }, standoff: 6 } : undefined },
      yaxis: { ...axis, type: panel.log ? "log" : "linear", range: y, ...ticks },
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    };
  }

  function render(entry) {
    const { panel, plot, hidden } = entry;
    const crowd = panel.series.filter((series) => series.kind === "faint" && !hidden.has(series.name)).length;
    const traces = panel.series.map((series) => trace(series, hidden, panel.log, plot.clientWidth, crowd));
    if (panel.skipped.length) traces.unshift(skips(panel, plot.clientWidth));
    return Plotly.react(plot, traces, layout(panel, hidden, entry === panels[panels.length - 1], plot.clientWidth), CONFIG);
  }

  async function zoom(low, high) {
    if (high - low < FEWEST) { const middle = (low + high) / 2; low = middle - FEWEST / 2; high = middle + FEWEST / 2; }
    if (high - low >= full[1] - full[0]) [low, high] = full;
    if (low < full[0]) { high += full[0] - low; low = full[0]; }
    if (high > full[1]) { low -= high - full[1]; high = full[1]; }
    range = [low, high];
    busy = true;
    for (const entry of panels) await render(entry);
    busy = false;
    point(cursor);
  }
  const scale = (factor) => {
    const middle = cursor !== null && cursor >= range[0] && cursor <= range[1] ? cursor : (range[0] + range[1]) / 2;
    return zoom(middle - (middle - range[0]) * factor, middle + (range[1] - middle) * factor);
  };
  const shift = (share) => { const by = (range[1] - range[0]) * share; return zoom(range[0] + by, range[1] + by); };

  /* Puts the cursor on a step, in every panel, and the values there into the legends. */
  function point(step) {
    cursor = step;
    const place = document.getElementById("cursor");
    if (step === null) { place.textContent = ""; } else {
      const at = data.epochs.length ? data.epochs[Math.max(0, data.epochs.findLastIndex(([start]) => start <= step))] : null;
      place.textContent = `${data.unit || "step"} ${count(step)}` + (at ? `, epoch ${at[1]}` : "");
    }
    for (const { panel, plot, cross, values } of panels) {
      const share = step === null ? -1 : (step - range[0]) / (range[1] - range[0]);
      cross.style.display = share >= 0 && share <= 1 ? "block" : "none";
      cross.style.left = `${MARGIN.l + share * (plot.clientWidth - MARGIN.l - MARGIN.r)}px`;
      for (const [name, place] of values) {
        const own = panel.series.filter((series) => series.name === name && series.kind !== "marks");
        const series = own.find((one) => one.kind === "faint") || own[0];
        place.textContent = step === null || !series ? "" : brief(series.y[nearest(series.x, step)]);
      }
    }
  }

  function legend(entry, box) {
    const seen = new Set();
    for (const series of entry.panel.series) {
      if (seen.has(series.name)) continue;
      seen.add(series.name);
      const button = document.createElement("button"), key = document.createElement("i"), value = document.createElement("b");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      key.style.color = `var(--${series.color})`;
      key.className = series.kind === "marks" ? "marks" : series.dash ? "dashed" : "";
      button.append(key, series.name + (series.note ? ` (${series.note})` : ""), value);
      if (series.kind !== "marks") entry.values.set(series.name, value);
      button.addEventListener("click", () => {
        const hide = !entry.hidden.delete(series.name);
        if (hide) entry.hidden.add(series.name);
        button.setAttribute("aria-pressed", String(!hide));
        render(entry);
      });
      box.append(button);
    }
  }

  function keys(event) {
    const step = Math.max(1, Math.round((range[1] - range[0]) / 100));
    const actions = {
      ArrowLeft: () => (event.shiftKey ? shift(-0.25) : point(Math.max(full[0], (cursor ?? Math.round(range[1])) - step))),
      ArrowRight: () => (event.shiftKey ? shift(0.25) : point(Math.min(full[1], (cursor ?? Math.round(range[0])) + step))),
      "+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), 0: () => zoom(...full), Escape: () => point(null),
    };
    if (actions[event.key] && !event.ctrlKey && !event.metaKey && event.target.tagName !== "BUTTON") { event.preventDefault(); actions[event.key](); }
  }

  async function panel(spec) {
    const section = document.getElementById(`panel-${spec.id}`), plot = section.querySelector(".plot");
    const entry = { panel: spec, plot, hidden: new Set(), values: new Map(), cross: document.createElement("div") };
    panels.push(entry);
    legend(entry, section.querySelector(".legend"));
    section.addEventListener("keydown", keys);
    return entry;
  }

  function listen(entry) {
    entry.cross.className = "cross";
    entry.plot.append(entry.cross);
    entry.plot.on("plotly_hover", (event) => point(Math.min(full[1], Math.max(full[0], Math.round(event.xvals[0])))));
    entry.plot.on("plotly_unhover", () => point(null));
    entry.plot.on("plotly_doubleclick", () => { zoom(...full); return false; });
    entry.plot.on("plotly_relayout", (event) => {
      if (busy) return;
      if (event["xaxis.range[0]"] !== undefined) zoom(event["xaxis.range[0]"], event["xaxis.range[1]"]);
      else if (event["xaxis.autorange"]) zoom(...full);
    });
  }

  let measure = 0;
  function heat() {
    const spec = data.heat, plot = document.getElementById("heat");
    if (!spec || !plot) return;
    const { z, zero, title } = spec.measures[measure];
    const flat = z.flat().filter((value) => value !== null);
    const low = flat.length ? Math.min(...flat) : 0, high = flat.length ? Math.max(...flat) : 1;
    const every = Math.max(1, Math.ceil((high - low) / 8)), ticks = [];
    for (let power = Math.ceil(low); power <= high; power += every) ticks.push(power);
    const narrow = plot.clientWidth < 560, text = narrow ? 9 : 11;
    const names = spec.layers.map((name) => plain(narrow ? name.replace(/^model\./, "") : name));
    const longest = Math.max(...names.map((name) => name.length));
    const size = z.map((row) => row.map((value) => (value === null ? "0 or none" : brief(10 ** value))));
    const where = z.map((row, i) => row.map(() => plain(spec.stages[i])));
    const custom = size.map((row, i) => row.map((value, j) => [value, where[i][j]]));
    const traces = [{
      type: "heatmap", z, x: spec.epochs, y: names, customdata: custom, colorscale: "Viridis", zmin: low, zmax: high, xgap: 0, ygap: 1, hoverongaps: true,
      hovertemplate: `%{y} (%{customdata[1]})<br>epoch %{x}${spec.span > 1 ? " and after" : ""}: ${title} %{customdata[0]}<extra></extra>`,
      colorbar: { thickness: narrow ? 8 : 12, outlinewidth: 0, tickvals: ticks, ticktext: ticks.map((p) => (p < -3 || p > 6 ? `1e${p}` : brief(10 ** p))), tickfont: { size: 11 }, len: 1, y: 0.5, x: 1.01, xpad: 4 },
    }];
    if (zero.length) {
      traces.push({ type: "scatter", mode: "markers", x: zero.map(([x]) => spec.epochs[x]), y: zero.map(([, y]) => names[y]), hoverinfo: "skip",
        marker: { symbol: "x-thin", size: 6, line: { width: 1.2, color: css("bad") } } });
    }
    const axis = { color: css("muted"), gridcolor: css("grid"), zeroline: false, tickfont: { size: text }, fixedrange: true, showgrid: false };
    const height = Math.max(200, spec.layers.length * (narrow ? 13 : 16) + 58);
    plot.style.minHeight = `${height}px`;
    Plotly.react(plot, traces, {
      height, margin: { l: Math.min(narrow ? 120 : 240, 14 + longest * text * 0.62), r: narrow ? 52 : 66, t: 6, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
      font: { family: css("sans"), size: 12, color: css("soft") },
      hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink"), family: css("sans"), size: 13 } },
      xaxis: { ...axis, range: [spec.epochs[0] - spec.span / 2, spec.epochs[spec.epochs.length - 1] + spec.span / 2], title: { text: "epoch", font: { size: 12, color: css("muted") }, standoff: 6 }, tickformat: "d", nticks: Math.min(12, spec.epochs.length), ...(spec.epochs.length < 12 ? { dtick: 1 } : {}) },
      yaxis: { ...axis, autorange: "reversed", type: "category", dtick: 1 },
    }, CONFIG);
  }

  function redraw() { for (const entry of panels) render(entry); heat(); point(cursor); }

  async function start(payload) {
    data = payload;
    const steps = data.panels.flatMap((spec) => spec.series.flatMap((series) => [series.x[0], series.x[series.x.length - 1]]));
    full = steps.length ? [Math.min(...steps) - 0.5, Math.max(...steps) + 0.5] : [0, 1];
    range = [...full];
    for (const spec of data.panels) await panel(spec);
    for (const entry of panels) { await render(entry); listen(entry); }
    document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => (
      { in: () => scale(0.5), out: () => scale(2), all: () => zoom(...full).then(() => point(null)) })[button.dataset.zoom]()));
    document.querySelectorAll("[data-measure]").forEach((button) => button.addEventListener("click", () => {
      measure = Number(button.dataset.measure);
      document.querySelectorAll("[data-measure]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      document.getElementById("heat-about").textContent = data.heat.measures[measure].about;
      heat();
    }));
    heat();
    addEventListener("resize", () => point(cursor));
    document.documentElement.dataset.drawn = "true";
  }

  const show = (step) => { const reach = Math.max(20, (full[1] - full[0]) / 40); return zoom(step - reach, step + reach).then(() => point(step)); };
  return { start, redraw, show };
})();
