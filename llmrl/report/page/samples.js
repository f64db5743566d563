// The sample browser: a step, a group of it, and its responses token by token.

const COLORS = {
  advantage: {
    text: 'advantage',
    of: (token, most) => [token.advantage < 0 ? 'bad' : 'good', 0.6 * Math.abs(token.advantage || 0) / (most.advantage || 1)],
    ends: (most) => [short(-most.advantage), short(most.advantage)],
  },
  surprise: {
    text: 'surprise',
    of: (token, most) => ['unlikely', 0.75 * Math.min(1, -(token.logp || 0) / most.surprise)],
    ends: (most) => ['p = 1', `p = ${Math.exp(-most.surprise).toFixed(3)}`],
  },
  version: {
    text: 'weight version',
    of: (token, most) => ['older', most.age ? 0.6 * (most.newest - token.version) / most.age : 0],
    ends: (most) => [`version ${most.newest}`, `version ${most.newest - most.age}`],
  },
};

function column(values, at) {
  return Array.isArray(values) ? values[at] : values;
}

function tokensOf(response, strings) {
  return response.tokens.map((place, at) => ({
    text: strings[place],
    logp: response.logprobs[at],
    version: column(response.versions, at),
    advantage: column(response.advantages, at),
    trained: column(response.trained, at),
  }));
}

// The ends of the colour scales of a group.
function mostOf(responses) {
  const tokens = responses.flatMap((each) => each.tokens);
  const [oldest, newest] = extent(tokens.map((token) => token.version)) || [0, 0];
  const [low, high] = extent(tokens.map((token) => token.advantage)) || [0, 0];
  return { advantage: Math.max(-low, high), surprise: 4, newest, age: newest - oldest };
}

function rewardText(judgement) {
  if (!judgement) return 'demonstration';
  return judgement.status === 'score' ? short(judgement.reward) : judgement.status;
}

// The credit of a response in one colour: its largest advantage.
function credit(response) {
  const [low, high] = extent([].concat(response.advantages)) || [0, 0];
  return -low > high ? low : high;
}

function hue(value, most) {
  return { class: value < 0 ? 'bad' : 'good', vars: { '--a': 0.75 * Math.abs(value) / (most || 1) } };
}

function tokenNode(token, at, paint, most) {
  const [color, strength] = paint(token, most);
  const kind = token.trained === false ? `${color} untrained` : color;
  return make('span', { class: kind, 'data-at': at, vars: { '--a': strength.toFixed(3) } }, token.text);
}

function responseNode(response, tokens, state, most) {
  const { judgement } = response;
  const { class: side, vars } = hue(credit(response), most.advantage);
  const versions = extent(tokens.map((token) => token.version));
  const parts = judgement ? Object.entries(judgement.parts).map(([name, score]) => make('span', {}, `${name} `, make('b', {}, short(score)))) : [];
  const body = make('pre', { class: 'tokens' }, tokens.map((token, at) => tokenNode(token, at, COLORS[state.color].of, most)),
    response.more ? make('i', { class: 'faint' }, ` and ${response.more.toLocaleString('en')} more tokens`) : '');
  explain(body, tokens);
  return make('article', { class: `card response ${side}`, vars },
    make('div', { class: 'meta' },
      make('b', { class: 'reward' }, rewardText(judgement)), parts,
      make('span', {}, 'advantage ', make('b', {}, short(credit(response)))),
      make('span', {}, make('b', {}, String(tokens.length + response.more)), ' tokens'),
      versions ? make('span', {}, versions[0] === versions[1] ? `version ${versions[0]}` : `versions ${versions[0]} to ${versions[1]}`) : '',
      response.stop === 'stop' ? '' : make('span', { class: 'badge' }, `stop: ${response.stop}`)),
    body,
    response.text === null ? '' : make('pre', { class: 'faint' }, response.text),
    judgement && judgement.note ? make('p', { class: 'note' }, judgement.note) : '');
}

// One listener per response: the token under the pointer tells what is known about it.
function explain(body, tokens) {
  const tip = byId('tip');
  body.addEventListener('pointerover', (event) => {
    const at = event.target.getAttribute('data-at');
    if (at === null) return;
    const token = tokens[at];
    const line = (text) => make('div', {}, text);
    tip.replaceChildren(
      make('code', {}, JSON.stringify(token.text)),
      line(token.logp === null ? 'no logp' : `logp ${token.logp.toFixed(4)}, p = ${Math.exp(token.logp).toFixed(4)}`),
      line(`version ${token.version}`),
      line(token.trained === false ? 'not trained on' : `advantage ${short(token.advantage)}`));
    tip.hidden = false;
    const box = event.target.getBoundingClientRect();
    const left = Math.max(6, Math.min(box.left, window.innerWidth - tip.offsetWidth - 6));
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  });
  body.addEventListener('pointerleave', () => { tip.hidden = true; });
}

function meanReward(responses) {
  const rewards = responses.map((each) => each.judgement && each.judgement.reward).filter((reward) => reward !== null);
  return rewards.length ? short(rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length) : '';
}

function groupButton(group, pressed, open) {
  const most = Math.max(...group.responses.map((each) => Math.abs(credit(each))), 0);
  return make('button', { type: 'button', 'aria-pressed': String(pressed), on: { click: open } },
    make('span', { class: 'title' },
      make('span', { class: 'preview' }, group.prompt.trim().slice(0, 120) || '(empty prompt)'),
      make('span', { class: 'faint', title: 'mean reward' }, meanReward(group.responses))),
    make('span', { class: 'dots' }, group.responses.map((each) => make('i', { ...hue(credit(each), most), title: rewardText(each.judgement) }))));
}

function promptNode(group) {
  return make('div', { class: 'card prompt' },
    make('div', { class: 'meta' },
      make('b', {}, group.id), make('span', {}, `source ${group.source}`), make('span', {}, `lag ${group.lag}`),
      group.answer === null ? '' : make('span', {}, 'gold answer ', make('b', {}, group.answer))),
    make('pre', {}, group.prompt));
}

function scaleNode(state, most) {
  if (state.color === 'advantage' && !most.advantage) return make('span', { class: 'scale' }, 'no advantage in this group');
  if (state.color === 'version' && !most.age) return make('span', { class: 'scale' }, `all version ${most.newest}`);
  const [low, high] = COLORS[state.color].ends(most);
  return make('span', { class: 'scale' }, low, make('i', { class: state.color }), high);
}

// The last group whose responses differ in credit, as only those teach anything; else the last step.
function telling(steps) {
  for (let step = steps.length - 1; step >= 0; step -= 1) {
    const group = steps[step].groups.findIndex((each) => each.responses.some((response) => credit(response)));
    if (group >= 0) return { step, group };
  }
  return { step: steps.length - 1, group: 0 };
}

function showSamples(story) {
  const { strings, steps } = story.excerpts;
  if (!steps.some((step) => step.groups.length)) {
    byId('browser').append(make('p', { class: 'card empty' }, 'This run wrote no samples; report.samples_every_steps says how often it does.'));
    return;
  }
  const state = { ...telling(steps), color: 'advantage' };
  const scale = make('span');
  const paint = () => {
    const { groups } = steps[state.step];
    const group = groups[Math.min(state.group, groups.length - 1)];
    const open = (at) => () => { state.group = at; paint(); };
    const told = group ? group.responses.map((each) => ({ each, tokens: tokensOf(each, strings) })) : [];
    const most = mostOf(told);
    scale.replaceChildren(scaleNode(state, most));
    byId('tip').hidden = true;
    byId('browser').replaceChildren(make('div', { class: 'browser' },
      make('div', { class: 'card groups' }, groups.map((each, at) => groupButton(each, each === group, open(at)))),
      make('div', {}, group ? promptNode(group) : '', told.map(({ each, tokens }) => responseNode(each, tokens, state, most)))));
  };
  const many = story.stages.length > 1;
  const named = steps.map((step, at) => [at, many && (!at || steps[at - 1].stage !== step.stage)
    ? `${plain(step.stage)} ${step.step}` : String(step.step)]);
  byId('sample-controls').append(
    make('span', { class: 'label' }, 'step'), choice(named, state.step, (step) => { state.step = step; paint(); }),
    make('span', { class: 'label' }, 'colour'),
    choice(Object.entries(COLORS).map(([name, color]) => [name, color.text]), state.color, (color) => { state.color = color; paint(); }),
    scale,
  );
  paint();
}
