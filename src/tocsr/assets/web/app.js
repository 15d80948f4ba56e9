// The page of `tocsr serve`: sends a photo, shows how far it is, and compares the result.

import { Compare } from "./compare.js";

const POLL_MS = 300;
const at = id => document.getElementById(id);
const compare = new Compare(at("view"), at("before"), at("after"), at("over"), at("cut"), scale => {
  at("zoom").textContent = `${(scale * 100).toFixed(scale < 0.1 ? 1 : 0)} %`;
});
let info = null;
let photo = null; // the last file
let photoUrl = null; // where the browser finds it
let job = null; // what the server said of it last
let sending = null; // the request that uploads it
let turn = 0; // of the photo; what belongs to an earlier one is left alone

class Stopped extends Error {}

async function api(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached.");
  }
  return answer(response.status, await response.text());
}

function answer(status, text) {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error(`The server answered with ${status}.`);
  }
  if (status >= 400) throw new Error(sentence(body.error));
  return body;
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + ".";
}

function say(error) {
  at("error").textContent = error;
  at("error").hidden = !error;
}

function doing(text, share) {
  at("doing").textContent = text;
  if (share === null) at("progress").removeAttribute("value");
  else at("progress").value = share;
}

// Uploads a file; XMLHttpRequest, because fetch does not say how much has gone.
function upload(file) {
  return new Promise((resolve, reject) => {
    const query = new URLSearchParams(new FormData(at("options")));
    query.set("name", file.name);
    sending = new XMLHttpRequest();
    sending.open("POST", `/api/jobs?${query}`);
    sending.upload.onprogress = event => doing("Sending the photo", event.loaded / event.total);
    sending.onload = event => {
      try {
        resolve(answer(event.target.status, event.target.responseText));
      } catch (error) {
        reject(error);
      }
    };
    sending.onerror = () => reject(new Error("The server cannot be reached, or broke off."));
    sending.onabort = () => reject(new Stopped());
    sending.send(file);
  });
}

function step() {
  if (job.state === "queued") {
    const others = job.position - 1;
    doing(others > 0 ? `Waiting, ${others} before it` : "Waiting for its turn", null);
  } else if (job.progress < 1) {
    const percent = Math.floor(job.progress * 100);
    doing(`Upscaling to ${job.width} × ${job.height}, ${percent} %`, job.progress);
  } else {
    doing("Writing the file", null);
  }
}

async function start(file) {
  if (!file) return;
  if (info && file.size > info.limits.max_upload_bytes) {
    const most = megabytes(info.limits.max_upload_bytes);
    say(`A photo must have at most ${most}, this one has ${megabytes(file.size)}.`);
    return;
  }
  if (!at("options").reportValidity()) return;
  const own = ++turn;
  remove();
  say("");
  if (photoUrl) URL.revokeObjectURL(photoUrl);
  [photo, photoUrl] = [file, URL.createObjectURL(file)];
  at("result").hidden = true;
  compare.clear();
  at("working").hidden = false;
  doing("Sending the photo", 0);
  try {
    const sent = await upload(file);
    if (own !== turn) {
      forget(sent);
      return;
    }
    job = sent;
    while (job.state === "queued" || job.state === "running") {
      step();
      await new Promise(wake => setTimeout(wake, POLL_MS));
      if (own !== turn) return;
      job = await api(`/api/jobs/${job.id}`);
    }
    if (own !== turn) return;
    if (job.state === "failed") throw new Error(sentence(job.error));
    if (job.state === "done") await show();
  } catch (error) {
    if (own !== turn) return;
    if (!(error instanceof Stopped)) say(error.message);
  }
  at("working").hidden = true;
  at("again").hidden = false;
}

async function show() {
  const { url, name, bytes, previews } = job.result;
  at("download").href = url;
  at("download").download = name;
  at("facts").textContent =
    `${name}, ${job.width} × ${job.height}, ${megabytes(bytes)}, ${job.seconds.toFixed(1)} s`;
  at("result").hidden = false;
  at("drop").classList.add("small");
  at("view").hidden = at("tools").hidden = at("hint").hidden = false;
  try {
    await compare.show(previews.before ?? photoUrl, previews.after ?? url, job.width, job.height);
    at("result").scrollIntoView({ block: "nearest" });
  } catch {
    at("view").hidden = at("tools").hidden = at("hint").hidden = true;
    say("This browser cannot show the picture. The download has it.");
  }
}

// Tells the server that a photo is not wanted any more; `keepalive` lets it go out while the page
// is left.
function forget(other) {
  fetch(`/api/jobs/${other.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function remove() {
  if (sending) sending.abort();
  if (job) forget(job);
  sending = job = null;
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${Number((bytes / 1e6).toFixed(1))} MB`;
}

function take(files) {
  if (files.length > 1) say("One photo at a time, please.");
  else if (files.length === 1) start(files[0]);
}

at("file").addEventListener("change", event => {
  take(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, event => {
    event.preventDefault();
    const out = name === "drop" || (name === "dragleave" && event.relatedTarget === null);
    at("drop").classList.toggle("over", !out);
    if (name === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", event => take(event.clipboardData.files));
at("options").addEventListener("submit", event => {
  event.preventDefault();
  start(photo);
});
at("options").addEventListener("invalid", () => (at("more").open = true), true);
at("cancel").addEventListener("click", () => {
  turn += 1;
  remove();
  at("working").hidden = true;
  at("again").hidden = false;
  say("Cancelled.");
});
at("in").addEventListener("click", () => compare.zoomBy(1.5));
at("out").addEventListener("click", () => compare.zoomBy(1 / 1.5));
at("fit").addEventListener("click", () => compare.fit());
at("one").addEventListener("click", () => compare.onePixel());
window.addEventListener("pagehide", remove);
window.addEventListener("pageshow", event => event.persisted && location.reload());

try {
  info = await api("/api/info");
  const { format, upscale } = at("options").elements;
  for (const name of info.formats) format.add(new Option(name.toUpperCase(), name));
  upscale.options[0].text = `× ${info.upscale}, the model's`;
  const { max_upload_bytes: bytes, max_pixels: pixels, keep_seconds: seconds } = info.limits;
  const megapixels = Number((pixels / 1e6).toFixed(1));
  at("limits").textContent = `Up to ${megabytes(bytes)} and ${megapixels} megapixels`;
  at("about").textContent +=
    ` It is removed when you leave, or ${Math.ceil(seconds / 60)} minutes after it is done.`;
} catch (error) {
  say(error.message);
}
