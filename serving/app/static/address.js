// Names of an address may carry a weight, as in `plus:0.5=a dog`.

export const base = (name) => name.split(":")[0];

export function first(parameters, name) {
  for (const [each, value] of parameters) if (base(each) === name) return value;
  return null;
}

// The terms as the service takes them; `picture` returns the bytes of a picture by its name.
export function terms(parameters, picture) {
  const kinds = { q: ["text", 1], plus: ["text", 1], minus: ["text", -0.5], like: ["id", 1], unlike: ["id", -0.5], picture: ["picture", 1] };
  return [...parameters].filter(([name, value]) => base(name) in kinds && value.trim()).map(([name, value]) => {
    const [kind, usual] = kinds[base(name)];
    const size = Number(name.split(":")[1]);
    const weight = size > 0 && size <= 4 ? Math.sign(usual) * size : usual;
    return { [kind]: kind === "picture" ? encoded(picture(value)) : value.trim(), weight };
  });
}

function encoded(bytes) {
  let text = "";
  for (const byte of bytes ?? []) text += String.fromCharCode(byte);
  return btoa(text);
}
