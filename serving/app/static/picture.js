// A picture that is chosen, dropped or pasted: made small here, kept for this tab alone, and named in the address.

const LONGEST = 1024; // pixels, far more than a network reads

export function preparePictures(wanted, search, tell) {
  if (!wanted) return;
  const file = document.getElementById("file");
  const take = async (chosen) => {
    if (!chosen?.type.startsWith("image/")) return;
    try {
      await search(await small(chosen));
    } catch {
      await search(new Uint8Array(await chosen.arrayBuffer())).catch(() => tell(document.body.dataset.failed));
    }
  };
  file.addEventListener("change", () => take(file.files[0]).then(() => (file.value = "")));
  addEventListener("paste", (event) => {
    const chosen = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (chosen) {
      event.preventDefault();
      take(chosen);
    }
  });
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

async function small(file) {
  const image = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, LONGEST / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const paint = canvas.getContext("2d");
  paint.fillStyle = "white";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  return new Uint8Array(await blob.arrayBuffer());
}

export async function keepPicture(bytes) {
  let name = "";
  for (const number of crypto.getRandomValues(new Uint8Array(6))) name += number.toString(16).padStart(2, "0");
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  try {
    sessionStorage.setItem(`picture:${name}`, btoa(text));
  } catch { // full: the older ones go
    sessionStorage.clear();
    try {
      sessionStorage.setItem(`picture:${name}`, btoa(text));
    } catch {
      last = [name, bytes];
    }
  }
  return name;
}

let last = ["", null];

export function picture(name) {
  if (last[0] === name) return last[1];
  const text = sessionStorage.getItem(`picture:${name}`);
  return text === null ? null : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function forgetPicture(name) {
  sessionStorage.removeItem(`picture:${name}`);
}
