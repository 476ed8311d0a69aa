// The one classic script: it runs where modules do not, in a page opened as a file.
if (location.protocol === "file:") {
  document.addEventListener("DOMContentLoaded", () => {
    const warning = document.getElementById("needs-server");
    if (warning) warning.hidden = false;
  });
}
