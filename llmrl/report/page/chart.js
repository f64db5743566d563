// One chart: curves, bands, dots or piles over steps. The legend shows the last values, or those under
// the pointer; all charts over the same steps follow it together.

const EDGE = { top: 6, right: 8, bottom: 18, left: 42 };

// Round numbers between low and high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(at * step);
  return found;
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? null : [low, high];
}

// The value below which a share of the known values lies.
function quantile(values, share) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[Math.round(share * (known.length - 1))] : null;
}

// What of a part must fit into its chart: all of it, but of bands not the wildest twentieth.
function reachOf(part) {
  if (part.top) return [...part.top, ...part.bottom];
  if (!part.low) return part.y;
  return part.dots ? [...part.low, ...part.high] : [...part.y, quantile(part.low, 0.05), quantile(part.high, 0.95)];
}

// A mean over neighbours with weights that fall off like a bell; gaps stay gaps.
function smooth(values, width) {
  const reach = Math.ceil(width * 2);
  return values.map((value, at) => {
    if (value === null) return null;
    let sum = 0;
    let weight = 0;
    for (let near = Math.max(0, at - reach); near <= Math.min(values.length - 1, at + reach); near += 1) {
      if (values[near] === null) continue;
      const share = Math.exp(-0.5 * ((near - at) / width) ** 2);
      sum += share * values[near];
      weight += share;
    }
    return sum / weight;
  });
}

function path(xs, ys) {
  let text = '';
  let down = false;
  xs.forEach((x, at) => {
    if (ys[at] === null) { down = false; return; }
    text += `${down ? 'L' : 'M'}${x.toFixed(1)} ${ys[at].toFixed(1)}`;
    down = true;
  });
  return text;
}

// The area between two curves, where both are known.
function between(xs, lows, highs) {
  const known = xs.map((_, at) => at).filter((at) => lows[at] !== null && highs[at] !== null);
  if (!known.length) return '';
  const there = known.map((at) => `${xs[at].toFixed(1)} ${highs[at].toFixed(1)}`);
  const back = known.reverse().map((at) => `${xs[at].toFixed(1)} ${lows[at].toFixed(1)}`);
  return `M${there.join('L')}L${back.join('L')}Z`;
}

// A single step has no width of its own.
function pileOf(xs, lows, highs) {
  if (xs.length > 1) return between(xs, lows, highs);
  return between([xs[0], xs[0] + 8], [lows[0], lows[0]], [highs[0], highs[0]]);
}

class Chart {
  // spec: title, text, unit, height, range [low|null, high|null], piled,
  //   lines: [{name, color, parts: [{x, until?, y, low?, high?, dots?, text?}]}], one part per stage.
  // frame: what charts over the same steps share: span [from, to], borders, name(x), followers, smooth.
  constructor(spec, frame) {
    this.spec = spec;
    this.frame = frame;
    this.legend = make('div', { class: 'legend' });
    this.place = make('span', { class: 'label place' });
    this.svg = draw('svg', { class: 'chart', height: spec.height, role: 'img', 'aria-label': spec.title });
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => frame.followers.forEach((each) => each.follow(null)));
    this.node = make('div', {},
      make('div', { class: 'chart-head', title: spec.text || false },
        make('h3', {}, spec.title), make('span', { class: 'label' }, spec.unit), this.place),
      this.legend, this.svg);
    this.prepare();
    frame.followers.push(this);
    new ResizeObserver(() => this.paint()).observe(this.svg);
  }

  prepare() {
    const { lines, piled } = this.spec;
    for (const line of lines) {
      for (const part of line.parts) {
        const width = part.x.length / 50;
        part.smooth = this.frame.smooth && !part.dots && width >= 1 ? smooth(part.y, width) : part.y;
      }
    }
    if (piled) this.pile();
    this.range = this.widen(extent(lines.flatMap((line) => line.parts.flatMap(reachOf))) || [0, 1]);
  }

  pile() {
    const { lines } = this.spec;
    lines.forEach((line, at) => line.parts.forEach((part, stage) => {
      part.bottom = at ? lines[at - 1].parts[stage].top : part.smooth.map(() => 0);
      part.top = part.smooth.map((value, index) => part.bottom[index] + (value || 0));
    }));
  }

  widen([low, high]) {
    if (low === high && low >= 0) return [0, high * 1.2 || 1];
    const [least, most] = this.spec.range;
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
    low = least !== null && low - room < least ? least : low - room;
    high = most !== null && high + room > most ? most : high + room;
    if (least === 0 && low < (high - low) * 0.8) low = 0;
    return [low, high];
  }

  paint() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const { height } = this.spec;
    const [from, to] = this.frame.span;
    const [low, high] = this.range;
    this.x = (step) => EDGE.left + ((step - from) / (to - from || 1)) * (width - EDGE.left - EDGE.right);
    const within = (value) => Math.min(high, Math.max(low, value));
    this.y = (value) => EDGE.top + ((high - within(value)) / (high - low)) * (height - EDGE.top - EDGE.bottom);
    this.cursor = draw('g');
    this.svg.replaceChildren(...this.rules(width, height), ...this.spec.lines.map((line) => this.line(line)), this.cursor);
    this.follow(null);
  }

  rules(width, height) {
    const [from, to] = this.frame.span;
    const found = [];
    for (const value of ticks(...this.range, height > 180 ? 5 : 3)) {
      const y = this.y(value);
      found.push(draw('line', { class: 'rule', x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }));
      found.push(draw('text', { x: EDGE.left - 6, y: y + 4, 'text-anchor': 'end' }, axis(value, this.range)));
    }
    for (const border of this.frame.borders) {
      const x = this.x(border.x);
      found.push(draw('line', { class: 'border', x1: x, x2: x, y1: EDGE.top, y2: height - EDGE.bottom }));
    }
    for (const [value, anchor] of [[from, 'start'], [to, 'end']]) {
      found.push(draw('text', { x: this.x(value), y: height - 3, 'text-anchor': anchor }, this.frame.name(value)));
    }
    return found;
  }

  line(line) {
    const group = draw('g', { class: line.color });
    for (const part of line.parts) {
      const xs = part.x.map(this.x);
      const ys = (values) => values.map((value) => (value === null ? null : this.y(value)));
      if (part.top) {
        group.append(draw('path', { class: 'pile', d: pileOf(xs, ys(part.bottom), ys(part.top)) }));
        continue;
      }
      if (part.low) group.append(draw('path', { class: 'band', d: between(xs, ys(part.low), ys(part.high)) }));
      if (part.smooth !== part.y) group.append(draw('path', { class: 'raw', d: path(xs, ys(part.y)) }));
      group.append(draw('path', { class: 'curve', d: path(xs, ys(part.smooth)) }));
      if (part.dots || part.x.length === 1) {
        part.x.forEach((_, at) => part.y[at] !== null && group.append(
          draw('circle', { class: 'dot', cx: xs[at], cy: this.y(part.y[at]), r: 3.2 })));
      }
    }
    return group;
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const [from, to] = this.frame.span;
    const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    const step = from + Math.min(1, Math.max(0, share)) * (to - from);
    this.frame.followers.forEach((each) => each.follow(step));
  }

  // Show the values at a step, or the last ones.
  follow(step) {
    if (!this.cursor) return;
    const found = this.spec.lines.map((line) => [line, nearest(line.parts, step)]);
    this.cursor.replaceChildren(...(step === null ? [] : this.marks(found)));
    const many = this.spec.lines.length > 1;
    this.legend.replaceChildren(...found.map(([line, place]) => make('span', {},
      many ? make('span', { class: `key ${line.color}` }) : '', many ? `${line.name} ` : '',
      make('b', {}, place ? short(place.part.y[place.at]) : '-'),
      place && place.part.text ? ` ${place.part.text[place.at]}` : many ? '' : range(place))));
    this.place.textContent = step === null ? '' : this.where(found);
  }

  where(found) {
    const place = found.map(([, each]) => each).find((each) => each);
    if (!place) return '';
    const { part, at } = place;
    const first = this.frame.name(part.x[at]);
    const last = part.until ? this.frame.name(part.until[at]) : first;
    return first === last ? first : `${first} to ${last}`;
  }

  marks(found) {
    const places = found.filter(([, place]) => place);
    if (!places.length) return [];
    const x = this.x(places[0][1].part.x[places[0][1].at]);
    const bottom = this.spec.height - EDGE.bottom;
    return [
      draw('line', { class: 'cursor', x1: x, x2: x, y1: EDGE.top, y2: bottom }),
      ...places.map(([line, { part, at }]) => draw('circle', {
        class: `mark ${line.color}`, cx: this.x(part.x[at]), cy: this.y((part.top || part.y)[at]), r: 3.5,
      })),
    ];
  }
}

function axis(value, [low, high]) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (value === 0) return '0';
  if (size >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toFixed(1)}k`;
  if (size < 0.001) return value.toExponential(1).replace('.0e', 'e');
  return String(+value.toPrecision(4));
}

// The known point nearest to a step, or the last known one.
function nearest(parts, step) {
  let best = null;
  for (const part of parts) {
    for (let at = 0; at < part.x.length; at += 1) {
      if (part.y[at] === null) continue;
      const far = step === null ? -part.x[at] : Math.abs(part.x[at] - step);
      if (!best || far < best.far) best = { part, at, far };
    }
  }
  return best;
}

function range(place) {
  if (!place || !place.part.low || place.part.low[place.at] === null) return '';
  if (place.part.low[place.at] === place.part.high[place.at]) return '';
  return ` (${short(place.part.low[place.at])} to ${short(place.part.high[place.at])})`;
}
