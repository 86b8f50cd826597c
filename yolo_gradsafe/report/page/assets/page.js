"use strict";
/* Theme, copying, filters, unfolding, printing; then unpacks Plotly, which comes compressed in the page, and draws. */
(() => {
  const root = document.documentElement;
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);
  const stored = (value) => {
    try { return value ? localStorage.setItem("gradsafe-theme", value) : localStorage.getItem("gradsafe-theme"); } catch { return null; }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = (value) => { root.dataset.theme = value; if (root.dataset.drawn) Charts.redraw(); };
  const chosen = () => stored() || (system.matches ? "dark" : "light");
  theme(chosen());
  system.addEventListener("change", () => theme(chosen()));
  each(".theme", (button) => button.addEventListener("click", () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    stored(next);
    theme(next);
  }));

  each("[data-copy]", (button) => button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try { await navigator.clipboard.writeText(code.textContent); } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));

  each("[data-kind-filter]", (button) => button.addEventListener("click", () => {
    const kind = button.dataset.kindFilter;
    each("[data-kind-filter]", (other) => other.setAttribute("aria-pressed", String(other === button)));
    if (kind) each(".more", (fold) => { fold.open = true; });
    each(".card", (card) => { card.hidden = Boolean(kind) && card.dataset.kind !== kind; });
  }));
  each("[data-show]", (button) => button.addEventListener("click", () => {
    Charts.show(Number(button.dataset.show));
    document.querySelector(".panel").scrollIntoView({ block: "start" });
  }));

  /* A figure leads to what it means, and that to a page of the documentation: both are folded away. */
  const unfold = (hash) => {
    const target = document.getElementById(hash.slice(1));
    const fold = target && target.closest("details");
    if (fold) fold.open = true;
    return fold && target;
  };
  const reveal = () => { const target = unfold(location.hash); if (target) target.scrollIntoView(); };
  each("a[href^='#']", (link) => link.addEventListener("click", () => unfold(link.hash)));
  addEventListener("hashchange", reveal);
  reveal();

  /* Paper cannot be unfolded: everything is open while it prints, and as it was afterwards. */
  let before = null, closed = [];
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((fold) => { fold.open = true; });
    theme("light");
  });
  addEventListener("afterprint", () => {
    closed.forEach((fold) => { fold.open = false; });
    theme(before || chosen());
  });

  async function unpack(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (char) => char.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  async function draw() {
    const data = JSON.parse(document.getElementById("data").textContent);
    if (!data.panels.length && !data.heat) return;
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    await Charts.start(data);
  }
  draw().catch((error) => {
    each(".plot", (plot) => { plot.textContent = "The curves cannot be drawn: this browser is too old. See stability.png."; plot.classList.add("nocharts"); });
    console.error(error);
  });
})();
