// Reads the story that stands in the page and shows its parts.

const story = JSON.parse(byId('story').textContent);
showHero(story);
showStages(story);
showCurves(story);
showSamples(story);
showRecipe(story);
document.documentElement.setAttribute('data-ready', '');
