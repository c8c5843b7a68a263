// What the theme makes in the browser gets names for screen readers, and what scrolls can be reached by the keyboard.
(() => {
  const named = () => {
    document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
    document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((each, index) =>
      each.setAttribute("aria-label", `Code block ${index + 1}`));
    document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex]), pre > code:not([tabindex])").forEach((each) =>
      each.setAttribute("tabindex", "0"));
  };
  named();
  new MutationObserver(named).observe(document.body, { childList: true, subtree: true });
})();
