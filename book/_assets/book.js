// Opened from a folder, the browser lets no page read another: the search lists titles without extracts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What the search shows of a page is its text: no formulas' sources, no tables of contents, no buttons.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const text = Search.htmlToText;
  Search.htmlToText = (source, anchor) => {
    const page = new DOMParser().parseFromString(source, "text/html");
    page.querySelectorAll(".math").forEach((formula) => formula.replaceWith("…"));
    page.querySelectorAll("#jb-print-docs-body, .bd-sidebar-secondary, .bd-header-article, nav, footer, style, script, .hessinit-explore, .hessinit-lab")
      .forEach((part) => part.remove());
    return text(page.documentElement.outerHTML, anchor);
  };
});
