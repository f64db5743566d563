// The few ways in which this page makes elements. Text only ever becomes a text node.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'on') for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name === 'vars') for (const [key, size] of Object.entries(value)) node.style.setProperty(key, size);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== ''));
  return node;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

// A row of buttons of which one is pressed.
function choice(options, chosen, choose) {
  const buttons = options.map(([value, text]) => make('button', {
    type: 'button',
    'aria-pressed': String(value === chosen),
    on: {
      click: () => {
        buttons.forEach((button, index) => button.setAttribute('aria-pressed', String(options[index][0] === value)));
        choose(value);
      },
    },
  }, text));
  return make('div', { class: 'choice' }, buttons);
}

function tick(text, checked, change) {
  const box = make('input', { type: 'checkbox', checked, on: { change: () => change(box.checked) } });
  return make('label', {}, box, text);
}

// 0.4123 -> 0.412, 12345 -> 12,345, 1234567 -> 1.23 M, 0.00001 -> 1.00e-5
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '-';
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  if (size >= 100) return value.toFixed(Number.isInteger(value) ? 0 : 1);
  if (size >= 10) return value.toFixed(Number.isInteger(value) ? 0 : 2);
  if (size === 0) return '0';
  if (size < 0.001) return value.toExponential(2);
  return Number.isInteger(value) ? String(value) : value.toFixed(3);
}

function took(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
