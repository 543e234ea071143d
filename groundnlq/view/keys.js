// Keys that are pressed on a control stay there; JupyterLab would take them for its commands.
window.groundnlqKeepsKeys ??= (document.addEventListener("focusin", event => {
  const control = event.target;
  if (control.closest(".jupyter-widgets") && !control.matches(":read-write"))
    control.setAttribute("data-lm-suppress-shortcuts", "true");
}), true);
