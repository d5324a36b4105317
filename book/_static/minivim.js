// Pages opened from a disk may not read other pages, so a search shows titles only.
if (location.protocol === "file:" && window.DOCUMENTATION_OPTIONS) {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// Names that the theme gives to controls and that differ from the words on them: a
// reader who speaks to the page could not call them.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(
    "summary[aria-label], .search-button-field[aria-label]",
  )) {
    element.removeAttribute("aria-label");
  }
});
