// A zip of files as they are: images are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

async function checksum(blob) {
  let crc = ~0;
  const reader = blob.stream().getReader();
  for (let part; !(part = await reader.read()).done; ) {
    for (const byte of part.value) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

// Little-endian numbers of two and four bytes, by their names.
function pack(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((size, [width]) => size + width, 0)));
  let at = 0;
  for (const [width, value] of fields) {
    view[width === 2 ? "setUint16" : "setUint32"](at, value, true);
    at += width;
  }
  return view.buffer;
}

// Returns the archive of [name, blob]; a name that comes twice gets a number.
export async function zip(files) {
  const now = new Date();
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const date = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const [parts, index, taken] = [[], [], new Set()];
  let at = 0;
  for (const [wanted, blob] of files) {
    let name = wanted;
    for (let n = 2; taken.has(name); n++) name = wanted.replace(/(\.[^.]*)?$/, ` (${n})$1`);
    taken.add(name);
    const text = new TextEncoder().encode(name);
    // version 2.0, names in UTF-8, stored
    const common = [[2, 20], [2, 0x800], [2, 0], [2, time], [2, date], [4, await checksum(blob)], [4, blob.size], [4, blob.size], [2, text.length], [2, 0]];
    parts.push(pack([4, 0x04034b50], ...common), text, blob);
    index.push(pack([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), text);
    at += 30 + text.length + blob.size;
  }
  const size = new Blob(index).size;
  if (at + size >= 2 ** 32) throw new RangeError("more than 4 GB: download the pictures one by one");
  const end = pack([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, at], [2, 0]);
  return new Blob([...parts, ...index, end], { type: "application/zip" });
}
