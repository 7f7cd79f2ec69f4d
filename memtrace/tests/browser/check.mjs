// Opens HTML reports in a browser and checks what only a browser can tell: nothing is requested, no
// error, no accessibility violation, no sideways scrolling on a phone, and the keyboard works.
//
//     npm install --prefix DIR playwright-core axe-core
//     NODE_PATH=DIR/node_modules BROWSER=/usr/bin/chromium node memtrace/tests/browser/check.mjs report.html...
//
// Not run in CI yet.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

const modules = createRequire(join(resolve(process.env.NODE_PATH || '.'), 'none.js'));
const { chromium } = modules('playwright-core');
const axe = readFileSync(modules.resolve('axe-core/axe.min.js'), 'utf8');
const browser = await chromium.launch({ executablePath: process.env.BROWSER, args: ['--no-sandbox'] });
let failures = 0;

function check(holds, what) {
  if (!holds) failures++;
  console.log(`${holds ? 'ok  ' : 'FAIL'} ${what}`);
}

async function open(file, options, work) {
  // The policy of the page would keep the checker out.
  const context = await browser.newContext({ bypassCSP: true, ...options });
  const page = await context.newPage();
  const seen = { requests: 0, errors: [] };
  page.on('request', () => seen.requests++);
  page.on('pageerror', error => seen.errors.push(error.message));
  page.on('console', message => message.type() === 'error' && seen.errors.push(message.text()));
  await page.goto('file://' + resolve(file));
  await work(page, seen);
  await context.close();
}

for (const file of process.argv.slice(2)) {
  console.log(file);
  await open(file, { bypassCSP: false }, async (page, seen) => {
    await page.waitForTimeout(200);
    check(seen.requests === 1, `requests: ${seen.requests}`);
    check(!seen.errors.length, `errors: ${seen.errors.join('; ') || 'none'}`);
    if (!await page.locator('#flame').count()) return;
    const zoomed = () => page.textContent('#zoomed');
    const all = await zoomed();
    await page.keyboard.press('/');
    check(await page.evaluate(() => document.activeElement.id) === 'search', '/ leads to the search');
    await page.locator('#flame [tabindex="0"]').focus();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    check(page.url().includes('#~z='), 'Enter zooms, and the address says so');
    await page.keyboard.press('Escape');
    check(await zoomed() === all, 'Escape goes back');
    check(await page.locator('#flame [tabindex="0"]').count() === 1, 'one box is in the order of tabs');
    const head = page.locator('#site-table thead th').first();
    await head.locator('button').focus();
    await page.keyboard.press('Enter');
    check(await head.getAttribute('aria-sort') === 'ascending', 'Enter sorts a table');
  });
  for (const [width, colorScheme] of [[1280, 'light'], [1280, 'dark'], [390, 'light'], [390, 'dark']]) {
    const options = { viewport: { width, height: 900 }, colorScheme };
    await open(file, options, async page => {
      await page.evaluate(() => {
        for (const it of document.querySelectorAll('details')) it.open = true;
        for (const it of [...document.querySelectorAll('.open')].slice(0, 3)) it.click();
      });
      await page.addScriptTag({ content: axe });
      const { violations } = await page.evaluate(() => globalThis.axe.run(document));
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      const which = violations.map(it => `${it.id} (${it.nodes.length})`).join(', ');
      check(!violations.length, `${width} ${colorScheme}: violations: ${which || 'none'}`);
      check(wide <= width, `${width} ${colorScheme}: ${wide} pixels wide`);
    });
  }
}
await browser.close();
process.exit(failures ? 1 : 0);
