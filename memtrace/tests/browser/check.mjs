// Opens HTML reports in a browser and checks what only a browser can tell: nothing is requested, no
// error, no accessibility violation, no sideways scrolling on a phone, the keyboard works, it is there
// and searched in time, and what can be read without JavaScript is there. `cargo xtask formats` runs
// it; by hand:
//
//     NODE_PATH=DIR/node_modules node memtrace/tests/browser/check.mjs chromium PROGRAM PICTURES report.html...
//
// DIR has puppeteer-core and axe-core, PROGRAM is the browser, chromium or firefox, and PICTURES the
// folder for what it looked like.
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join, resolve } from 'node:path';

const [kind, program, pictures, ...files] = process.argv.slice(2);
const modules = createRequire(join(resolve(process.env.NODE_PATH || '.'), 'none.js'));
const puppeteer = modules('puppeteer-core');
const axe = readFileSync(modules.resolve('axe-core/axe.min.js'), 'utf8');

// Milliseconds until there is something to see, and until a search has its result.
const FIRST_PAINT = 1500;
const SEARCH = 300;

const THEMES = ['light', 'dark'];
const WIDTHS = [1280, 390];

let failures = 0;
let checks = 0;

function check(holds, what) {
  checks++;
  if (holds) return;
  failures++;
  console.log(`FAIL ${what}`);
}

// Firefox takes the theme when it starts, not for a page.
function launch(theme) {
  const common = { browser: kind === 'firefox' ? 'firefox' : 'chrome', executablePath: program, headless: true };
  if (kind !== 'firefox') return puppeteer.launch({ ...common, args: ['--no-sandbox', '--disable-gpu'] });
  const override = theme === 'dark' ? 0 : 1;
  return puppeteer.launch({
    ...common,
    extraPrefsFirefox: { 'layout.css.prefers-color-scheme.content-override': override },
  });
}

async function open(browser, file, { width = 1280, theme = 'light', script = true }, work) {
  const page = await browser.newPage();
  const seen = { requests: 0, errors: [] };
  page.on('request', () => seen.requests++);
  page.on('pageerror', error => seen.errors.push(error.message));
  page.on('console', message => message.type() === 'error' && seen.errors.push(message.text()));
  await page.setViewport({ width, height: 900 });
  if (kind !== 'firefox') await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }]);
  if (!script) await page.setJavaScriptEnabled(false);
  await page.goto('file://' + resolve(file), { waitUntil: 'load' });
  try {
    return await work(page, seen);
  } finally {
    await page.close();
  }
}

const focused = page => page.evaluate(() => document.activeElement.id);
const text = (page, which) => page.$eval(which, it => it.textContent);

async function keyboard(page, name) {
  const zoomed = () => text(page, '#zoomed');
  const all = await zoomed();
  await page.keyboard.press('/');
  check(await focused(page) === 'search', `${name}: / leads to the search`);
  await page.focus('#flame [tabindex="0"]');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  check((await page.evaluate(() => location.hash)).includes('~z='), `${name}: Enter zooms, and the address says so`);
  await page.keyboard.press('Escape');
  check(await zoomed() === all, `${name}: Escape goes back`);
  check((await page.$$('#flame [tabindex="0"]')).length === 1, `${name}: one box is in the order of tabs`);
  await page.focus('#site-table thead th button');
  await page.keyboard.press('Enter');
  const sorted = await page.$eval('#site-table thead th', it => it.getAttribute('aria-sort'));
  check(sorted === 'ascending', `${name}: Enter sorts a table`);
}

// The same pages, by the roles whose processes copied them.
async function roles(page, name) {
  if (await page.$eval('#role-label', it => it.hidden)) return;
  const all = await text(page, '#zoomed');
  await page.click('#role');
  check((await page.evaluate(() => location.hash)).includes('role'), `${name}: the address says that it is by role`);
  check(await text(page, '#zoomed') === all, `${name}: all is as much by role as before`);
  const names = await page.evaluate(() => {
    const data = JSON.parse(document.getElementById('data').textContent);
    return data.roles.map(at => data.strings[at]);
  });
  const boxes = await page.$$eval('#flame button', all => all.map(it => it.getAttribute('aria-label') || it.textContent));
  const shown = names.filter(role => boxes.some(box => box.startsWith(role)));
  check(shown.length > 0, `${name}: no box of ${names.join(', ')} among ${boxes.slice(0, 5).join('; ')}`);
  await page.click('#role');
}

// From the letter that was typed to the result. Other work of the machine only adds to it, so it is
// tried again where it took too long: what is slow itself is slow every time.
async function searched(page) {
  let least = Infinity;
  for (let tries = 0; tries < 20 && least >= SEARCH; tries++) {
    least = Math.min(least, await searchedFor(page, '1f2e3'[tries % 5]));
  }
  return least;
}

function searchedFor(page, letter) {
  return page.evaluate(letter => new Promise(done => {
    const search = document.getElementById('search');
    const found = document.getElementById('found');
    const begin = performance.now();
    const observer = new MutationObserver(() => requestAnimationFrame(() => {
      observer.disconnect();
      done(performance.now() - begin);
    }));
    observer.observe(found, { childList: true, characterData: true, subtree: true });
    search.value = letter;
    search.dispatchEvent(new Event('input', { bubbles: true }));
  }), letter);
}

const painted = page => page.evaluate(() => new Promise(done => {
  const [paint] = performance.getEntriesByName('first-contentful-paint');
  if (paint) done(paint.startTime);
  new PerformanceObserver((list, observer) => {
    const [entry] = list.getEntriesByName('first-contentful-paint');
    if (entry) { observer.disconnect(); done(entry.startTime); }
  }).observe({ type: 'paint', buffered: true });
  setTimeout(() => done(Infinity), 5000);
}));

async function atWork(browser, file, name) {
  return open(browser, file, {}, async (page, seen) => {
    const paint = await painted(page);
    const figures = [`first paint ${Math.round(paint)} ms`];
    check(paint < FIRST_PAINT, `${name}: first paint after ${Math.round(paint)} ms`);
    if (await page.$('#flame')) {
      await keyboard(page, name);
      await roles(page, name);
      const search = await searched(page);
      check(search < SEARCH, `${name}: searched in ${Math.round(search)} ms`);
      figures.push(`search ${Math.round(search)} ms`);
    }
    check(seen.requests === 1, `${name}: requests: ${seen.requests}`);
    check(!seen.errors.length, `${name}: errors: ${seen.errors.join('; ')}`);
    return figures.join(', ');
  });
}

async function withoutScript(browser, file, name) {
  await open(browser, file, { script: false }, async page => {
    const shown = await page.evaluate(() => ({
      head: document.querySelector('h1')?.textContent || '',
      tables: document.querySelectorAll('table').length,
      rows: document.querySelectorAll('tbody tr').length,
      flame: document.querySelector('#flame')?.hidden ?? true,
    }));
    const says = JSON.stringify(shown);
    check(shown.head && shown.tables && shown.rows && shown.flame, `${name}: without JavaScript: ${says}`);
    await page.screenshot({ path: join(pictures, `${name}-${kind}-without-script.png`) });
  });
}

async function looks(browser, file, name, width, theme) {
  await open(browser, file, { width, theme }, async page => {
    await page.screenshot({ path: join(pictures, `${name}-${kind}-${width}-${theme}.png`) });
    await page.evaluate(() => {
      for (const it of document.querySelectorAll('details')) it.open = true;
      for (const it of [...document.querySelectorAll('.open')].slice(0, 3)) it.click();
    });
    // Evaluated and not put into the page, whose policy permits nothing foreign.
    await page.evaluate(axe);
    const violations = await page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
      return violations.map(({ id, nodes }) =>
        `${id} (${nodes.length}): ${nodes[0].target}: ${nodes[0].failureSummary.replace(/\s+/g, ' ')}`);
    });
    const { wide, dark } = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth,
      dark: matchMedia('(prefers-color-scheme: dark)').matches,
    }));
    const where = `${name}, ${width} ${theme}`;
    check(dark === (theme === 'dark'), `${where}: the theme is not what was asked for`);
    check(!violations.length, `${where}: violations: ${violations.join(', ')}`);
    check(wide <= width, `${where}: ${wide} pixels wide`);
  });
}

mkdirSync(pictures, { recursive: true });
for (const theme of THEMES) {
  const browser = await launch(theme);
  try {
    for (const file of files) {
      const name = basename(file, '.html');
      const begin = Date.now();
      let figures = '';
      if (theme === 'light') {
        figures = await atWork(browser, file, name) + ', ';
        // The driver cannot switch it off in Firefox.
        if (kind !== 'firefox') await withoutScript(browser, file, name);
      }
      for (const width of WIDTHS) await looks(browser, file, name, width, theme);
      console.log(`${kind}, ${theme}: ${name}: ${figures}${Date.now() - begin} ms in all`);
    }
  } finally {
    await browser.close();
  }
}
console.log(`${kind}: ${checks} checks, ${failures} failed`);
process.exit(failures ? 1 : 0);
