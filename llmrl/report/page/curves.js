// Which charts there are, and what of the run each shows.

// A prefix ends in a slash and stands for all metrics below it.
const PANELS = [
  { title: 'Reward', of: ['reward/mean', 'reward/part/'] },
  { title: 'Entropy', of: ['policy/entropy'], zero: true },
  { title: 'Response length', of: ['rollout/tokens_mean', 'rollout/tokens_max'], zero: true },
  { title: 'Lag', of: ['lag/mean', 'lag/max'], zero: true },
  { title: 'Gradient norm', of: ['policy/grad_norm'], zero: true },
  { title: 'Time per step', of: ['time/wait', 'time/train'], zero: true, piled: true },
  { title: 'Weight sync', of: ['time/sync'], zero: true },
  { title: 'Throughput', of: ['rollout/tokens_per_second', 'policy/tokens_per_second'], zero: true },
  { title: 'Loss', of: ['policy/loss'] },
  { title: 'Groups', of: ['groups/trained', 'groups/dropped'], zero: true },
  { title: 'Engine against trainer', of: ['policy/kl_sampled'] },
  {
    title: 'Responses with a problem', zero: true,
    of: ['rollout/truncated_rate', 'judgement/abstain_rate', 'judgement/error_rate', 'correction/masked_rate'],
  },
];

// What a chart of these stages shares. Over several stages, steps are counted from the first one on.
function frameOf(stages, smoothed) {
  let before = 0;
  const placed = stages.map((stage) => {
    const offset = before;
    before += stage.steps;
    return { stage, offset };
  });
  const name = (x) => {
    if (stages.length === 1) return `step ${Math.round(x)}`;
    const { stage, offset } = placed.findLast((each) => x > each.offset) || placed[0];
    return `${plain(stage.name)} ${Math.round(x) - offset}`;
  };
  const first = stages.some((stage) => stage.evaluations.some((entry) => entry.step === 0)) ? 0 : 1;
  return {
    placed, name, smooth: smoothed, followers: [],
    span: [stages.length === 1 ? first : 0, Math.max(before, first + 1)],
    borders: placed.slice(1).map(({ offset }) => ({ x: offset })),
  };
}

function plain(name) {
  return name.replace(/^\d+-/, '');
}

// One metric over the stages of a frame; null if no stage has it.
function lineOf(metric, name, color, frame) {
  const parts = frame.placed.filter(({ stage }) => metric in stage.curves.metrics).map(({ stage, offset }) => {
    const { mean, low, high } = stage.curves.metrics[metric];
    return {
      x: stage.curves.first.map((step) => step + offset),
      until: stage.curves.last.map((step) => step + offset),
      y: mean,
      low,
      high,
    };
  });
  return parts.length ? { name, color, parts } : null;
}

function namesOf(panel, story) {
  const known = Object.keys(story.metrics);
  return panel.of.flatMap((name) => (name.endsWith('/') ? known.filter((each) => each.startsWith(name)) : [name]))
    .filter((name) => known.includes(name));
}

// What tells the metrics of one chart apart: tokens_mean and tokens_max are "mean" and "max".
function told(name, names) {
  if (names.length === 1) return name;
  if (name.endsWith('tokens_per_second')) return name.split('/')[0];
  return name.split('/').pop().replace(/^tokens_|_rate$/g, '');
}

function chartOf(panel, story, frame, height) {
  const names = namesOf(panel, story);
  const lines = names.map((name, at) => lineOf(name, told(name, names), `c${at % 6}`, frame)).filter((line) => line);
  if (!lines.length) return null;
  const info = story.metrics[names[0]];
  const top = info.unit === 'fraction' ? 1 : null;
  return new Chart({
    title: panel.title, lines, height, piled: panel.piled, unit: info.unit === '1' ? '' : info.unit,
    text: names.map((name) => `${name}: ${story.metrics[name].text}`).join('\n'),
    range: [panel.zero || info.unit === 'fraction' ? 0 : null, top],
  }, frame);
}

function accuracyOf(frame, height) {
  const names = [...new Set(frame.placed.flatMap(({ stage }) => stage.evaluations.map((entry) => entry.name)))];
  const lines = names.map((name, at) => ({
    name,
    color: `c${at % 6}`,
    parts: frame.placed.map(({ stage, offset }) => {
      const found = stage.evaluations.filter((entry) => entry.name === name && entry.accuracy !== null);
      return {
        x: found.map((entry) => entry.step + offset),
        y: found.map((entry) => entry.accuracy),
        low: found.map((entry) => entry.low),
        high: found.map((entry) => entry.high),
        text: found.map((entry) => `95 % ${entry.low.toFixed(3)}-${entry.high.toFixed(3)}, n = ${entry.n}`
          + (entry.unjudged ? `, ${entry.unjudged} not judged` : '')
          + Object.entries(entry.pass_at_k).filter(([k, value]) => k > 1 && value !== null).map(([k, value]) => `, pass@${k} ${value.toFixed(3)}`).join('')),
        dots: true,
      };
    }).filter((part) => part.x.length),
  }));
  if (!lines.length) return null;
  return new Chart({
    title: 'Held-out accuracy', text: '', unit: '95 % interval', lines, height, range: [0, 1],
  }, frame);
}

function showHero(story) {
  const evaluated = story.stages.filter((stage) => stage.evaluations.length);
  const frame = frameOf(evaluated.slice(-1).concat(evaluated.length ? [] : story.stages), true);
  const hero = accuracyOf(frame, 250) || chartOf(PANELS[0], story, frame, 250)
    || chartOf(PANELS.find((panel) => panel.title === 'Loss'), story, frame, 250);
  if (hero) byId('hero-chart').append(hero.node);
  else byId('hero-chart').append(make('p', { class: 'empty' }, 'No step has been finished yet.'));
}

function showCurves(story) {
  const state = { stage: null, smooth: true };
  const paint = () => {
    const stages = state.stage === null ? story.stages : [story.stages[state.stage]];
    const frame = frameOf(stages, state.smooth);
    const charts = [accuracyOf(frame, 150), ...PANELS.map((panel) => chartOf(panel, story, frame, 150))];
    const shown = new Set(['time/step', ...PANELS.flatMap((panel) => namesOf(panel, story))]);
    const others = Object.keys(story.metrics).filter((name) => !shown.has(name));
    const more = others.map((name) => chartOf({ title: name, of: [name] }, story, frame, 96));
    const card = (chart) => make('div', { class: 'card' }, chart.node);
    byId('panels').replaceChildren(...charts.filter((chart) => chart).map(card));
    byId('more-panels').replaceChildren(...more.filter((chart) => chart).map(card));
    byId('more').hidden = !others.length;
  };
  const options = [[null, 'whole run'], ...story.stages.map((stage, at) => [at, stage.name])];
  byId('curve-controls').append(
    ...(story.stages.length > 1 ? [choice(options, null, (stage) => { state.stage = stage; paint(); })] : []),
    tick('smooth', true, (checked) => { state.smooth = checked; paint(); }),
  );
  paint();
}

function showStages(story) {
  const told = (value, digits) => (value === null ? '-' : value.toFixed(digits));
  const change = (before, after, digits) => [
    make('span', { class: 'faint' }, `${told(before, digits)} \u2192 `), told(after, digits),
  ];
  const row = (stage) => {
    const [first, last] = [stage.evaluations[0], stage.evaluations[stage.evaluations.length - 1]];
    const named = (metric) => (stage.change && stage.change.metric === metric
      ? change(stage.change.before, stage.change.after, 3) : ['-']);
    return make('tr', {}, [
      [stage.name], first ? change(first.accuracy, last.accuracy, 3) : ['-'], named('reward/mean'), named('policy/loss'),
      [stage.steps.toLocaleString('en')], [took(stage.seconds)], [short(stage.tokens)],
      [stage.seconds ? short(Math.round(stage.tokens / stage.seconds)) : '-'],
    ].map((cell) => make('td', {}, cell)));
  };
  const heads = ['stage', 'held-out accuracy', 'reward', 'loss', 'steps', 'time', 'trained tokens', 'tokens/s'];
  byId('stages').append(make('table', {},
    make('thead', {}, make('tr', {}, heads.map((head) => make('th', {}, head)))),
    make('tbody', {}, story.stages.map(row))));
}
