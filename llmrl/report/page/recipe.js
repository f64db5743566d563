// The recipe with what was chosen in it, and its arithmetic in words.

function settingNode({ key, value, chosen, text }) {
  return make('div', { class: chosen ? 'setting chosen' : 'setting' },
    make('code', { class: 'key-name' }, key), make('code', {}, value),
    text ? make('span', { class: 'text' }, text) : '');
}

function showRecipe(story) {
  const titles = Object.keys(story.settings);
  if (!titles.length) {
    byId('settings').append(make('p', { class: 'card empty' }, 'The run folder holds no recipe.json.'));
    return;
  }
  const state = { title: titles[titles.length - 1], all: false };
  const list = make('div', { class: 'card' });
  const paint = () => {
    const settings = story.settings[state.title];
    const marked = settings.some((each) => each.chosen);
    list.replaceChildren(...settings.filter((each) => state.all || each.chosen || !marked).map(settingNode));
  };
  byId('recipe-controls').append(
    choice(titles.map((title) => [title, title]), state.title, (title) => { state.title = title; paint(); }),
    tick('defaults too', false, (checked) => { state.all = checked; paint(); }),
  );
  byId('settings').append(make('div', { class: 'settings' }, list,
    story.arithmetic.length ? make('div', { class: 'card' }, make('h3', {}, 'In words'),
      make('ul', { class: 'arithmetic' }, story.arithmetic.map((sentence) => make('li', {}, sentence)))) : ''));
  paint();
}
