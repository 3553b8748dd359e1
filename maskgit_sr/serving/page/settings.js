// The form of what a request may say, from what the server tells of its model.

const FORMATS = { png: "PNG", jpeg: "JPEG", webp: "WebP" }; // those that browsers show
const USUAL = ["strength", "temperature", "noise"]; // options of methods that people want at hand
const COLORS = ["adain", "wavelet", "none"];
const TEXTS = {
  scale: ["Scale", "side of the result over that of the picture"],
  format: ["Format", ""],
  quality: ["Quality", "1 to 100"],
  strength: ["Strength", "of the restoration"],
  temperature: ["Temperature", "0 takes the most likely; above, results vary by the seed"],
  noise: ["Noise", "added grain, drawn by the seed"],
  seed: ["Seed", "of what is drawn at random"],
  consistent: ["Consistent", "grey levels within which the result, reduced, is the picture; PNG only"],
  color_fix: ["Colours", "how they are matched to the picture"],
  steps: ["Steps", "of decoding; more take longer"],
};

export class Settings {
  constructor(info, form) {
    this.info = info;
    const fields = [
      ["scale", "number", info.scale, { min: 0.1, max: 16, step: "any" }],
      ["format", Object.keys(FORMATS), "png"],
      ["quality", "number", 95, { min: 1, max: 100 }],
      ...USUAL.filter((name) => name in info.options).map((name) => [name, "number", info.options[name], { min: 0, step: "any" }]),
      ["seed", "number", 0, { min: 0, max: 2 ** 32 - 1, advanced: true }],
      ["consistent", "number", "", { min: 0.1, max: 255, step: "any", advanced: true, placeholder: "off" }],
    ];
    for (const [name, value] of Object.entries(info.options)) {
      if (USUAL.includes(name)) continue;
      const kind = name === "color_fix" ? COLORS : typeof value === "boolean" ? "checkbox" : typeof value === "number" ? "number" : "text";
      fields.push([name, kind, value, { step: "any", advanced: true }]);
    }
    this.fields = new Map(fields.map(([name, kind, value, more = {}]) => [name, { value, input: this.draw(form, name, kind, value, more) }]));
    const format = this.fields.get("format").input;
    this.update = () => {
      for (const node of form.querySelectorAll(".quality")) node.hidden = format.value === "png";
    };
    form.addEventListener("input", this.update);
    form.addEventListener("reset", () => setTimeout(() => form.dispatchEvent(new Event("input"))));
    form.addEventListener("submit", (event) => event.preventDefault());
    this.update();
  }

  draw(form, name, kind, value, { advanced, ...more }) {
    const [text, hint] = TEXTS[name] ?? [name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " "), ""];
    const choices = Array.isArray(kind) ? kind : null;
    const input = document.createElement(choices ? "select" : "input");
    if (choices) {
      for (const choice of choices) input.append(new Option(FORMATS[choice] ?? choice, choice, choice === value, choice === value));
    } else {
      Object.assign(input, { type: kind, spellcheck: false, ...more });
      if (kind === "checkbox") input.defaultChecked = value;
      else input.defaultValue = value;
    }
    [input.id, input.name] = [`set-${name}`, name];
    const label = document.createElement("label");
    [label.htmlFor, label.textContent] = [input.id, text];
    if (hint) {
      const small = document.createElement("small");
      small.textContent = hint;
      label.append(small);
    }
    label.classList.add(name);
    input.classList.add(name);
    form.querySelector(advanced ? "#rest" : "#usual").append(label, input);
    return input;
  }

  // Values that are not the server's own, as text.
  values() {
    const found = {};
    for (const [name, { value, input }] of this.fields) {
      const given = input.type === "checkbox" ? String(input.checked) : input.value.trim();
      if (input.hidden || given === "" || given === String(value)) continue;
      found[name] = given;
    }
    return found;
  }

  restore(values) {
    for (const [name, given] of Object.entries(values)) {
      const input = this.fields.get(name)?.input;
      if (input?.type === "checkbox") input.checked = given === "true";
      else if (input) input.value = given;
    }
    this.update();
  }

  // What an item needs: the query of its request, a text for people, and the end of its name.
  chosen() {
    const values = this.values();
    const query = new URLSearchParams(values);
    if (this.info.provides.includes("confidence")) query.set("confidence", "true");
    const { scale = this.info.scale, format = "png", ...others } = values;
    const label = [`×${scale}`, FORMATS[format], ...Object.entries(others).map(([name, value]) => `${name} ${value}`)].join(", ");
    return { query: String(query), label, ending: `_x${scale}.${{ jpeg: "jpg" }[format] ?? format}` };
  }
}
