// Pages opened from a disk may not read other pages, so a search shows titles only.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// Names of controls: the theme gives some that differ from the words on them, so that
// one who speaks to the page could not call them, and none to the arrows of its sidebar.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(
    "summary[aria-label], .search-button-field[aria-label]",
  )) {
    if (element.textContent.trim()) element.removeAttribute("aria-label");
  }
  for (const summary of document.querySelectorAll(".bd-sidebar-primary summary")) {
    const entry = summary.closest("li").querySelector("a").textContent.trim();
    summary.setAttribute("aria-label", `Pages below ${entry}`);
  }
});

// A formula that scrolls can be reached by keyboard.
function reachable() {
  for (const formula of document.querySelectorAll("mjx-container[display=true]")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
}
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(reachable));
window.addEventListener("resize", reachable);
