// Makes what scrolls sideways reachable by the keyboard, where it is wider than the page.
"use strict";
function markScrolling() {
  for (const part of document.querySelectorAll(
    "pre, div.math, .table-wrapper, .book-scroll, .output.text_html")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}
window.addEventListener("load", markScrolling);
window.addEventListener("resize", markScrolling);
document.addEventListener("toggle", markScrolling, true);  // <details> opens
