// Reads reports with the programs of npm that they are for.
//
//     NODE_PATH=DIR/node_modules node readers.mjs FOLDER NAME CHROMIUM
//
// Prints what each of them says that was copied, a line each: the tool, what is counted, the sum.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, extname, join, normalize, resolve } from 'node:path';

const [folder, name, chromium] = process.argv.slice(2);
const modules = createRequire(join(resolve(process.env.NODE_PATH), 'none.js'));
const file = extension => join(resolve(folder), `${name}.${extension}`);
const say = (...words) => console.log(words.join('\t'));

function hdrHistogram() {
  const { decodeFromCompressedBase64 } = modules('hdr-histogram-js');
  const counts = { latency_ns: 0, age_ms: 0 };
  for (const line of readFileSync(file('hlog'), 'utf8').split('\n')) {
    const kind = line.match(/^Tag=(latency_ns|age_ms)_/)?.[1];
    if (!kind) continue;
    const values = decodeFromCompressedBase64(line.split(',').pop());
    counts[kind] += values.totalCount;
  }
  say('hdr-histogram-js', 'latencies', counts.latency_ns);
  say('hdr-histogram-js', 'ages', counts.age_ms);
}

// The reader of the Firefox Profiler, as its command line has it: a process that keeps the profile,
// and commands that ask it. The process is started here: its own command gives up after half a second.
async function firefoxProfiler() {
  const home = modules.resolve('@firefox-devtools/profiler-cli/package.json');
  const program = join(dirname(home), 'dist', 'profiler-cli.js');
  const sessions = mkdtempSync(join(tmpdir(), 'firefox-profiler-'));
  const env = { ...process.env, PROFILER_CLI_SESSION_DIR: sessions, PROFILER_CLI_NO_SYMBOLICATE: '1' };
  const session = ['--session', 'memtrace'];
  const ask = (...words) => execFileSync(process.execPath, [program, ...words, ...session],
    { encoding: 'utf8', env, maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'pipe'] });
  const keeper = spawn(process.execPath, [program, '--daemon', file('firefox.json'), ...session],
    { env, stdio: 'ignore' });
  const ended = new Promise(done => keeper.once('exit', done));
  const info = () => JSON.parse(ask('thread', 'info', '--json'));
  const sum = () => JSON.parse(ask('thread', 'functions', '--json')).functions
    .reduce((all, it) => all + it.selfSamples, 0);
  try {
    const { availableStrategies, markerCount } = await patiently(info);
    say('Firefox Profiler', 'pages', availableStrategies.includes('timing') ? sum() : 0);
    const bytes = 'native-allocations';
    if (availableStrategies.includes(bytes)) {
      ask('strategy', bytes);
      say('Firefox Profiler', 'bytes', sum());
    }
    if (!markerCount) throw new Error('the Firefox Profiler sees no markers');
  } finally {
    keeper.kill();
    await ended;
    rmSync(sessions, { recursive: true });
  }
}

// What something says as soon as it says anything, or why it does not.
async function patiently(work) {
  for (const begin = Date.now(); ;) {
    try {
      return work();
    } catch (error) {
      if (Date.now() - begin > 60_000) throw error;
      await new Promise(done => setTimeout(done, 200));
    }
  }
}

// speedscope's own page, in a browser. What it has read is what it exports.
async function speedscope() {
  const home = join(dirname(modules.resolve('speedscope/package.json')), 'dist', 'release');
  const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };
  const profile = extension => `/${name}.${extension}`;
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname));
    const of = path.startsWith(`/${name}.`) ? resolve(folder) : home;
    try {
      const bytes = readFileSync(join(of, path));
      response.setHeader('Content-Type', types[extname(path)] || 'application/octet-stream');
      response.end(bytes);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise(done => server.listen(0, '127.0.0.1', done));
  const at = `http://127.0.0.1:${server.address().port}`;
  const driver = await modules('puppeteer-core').launch({
    browser: 'chrome', executablePath: chromium, args: ['--no-sandbox', '--disable-gpu'],
  });
  const exported = async extension => {
    const page = await driver.newPage();
    await page.evaluateOnNewDocument(() => {
      globalThis.saved = new Promise(done => { URL.createObjectURL = blob => { done(blob.text()); return '#'; }; });
    });
    await page.goto(`${at}/index.html#profileURL=${encodeURIComponent(at + profile(extension))}`);
    await page.waitForFunction(() => document.body.innerText.includes('Export'), { timeout: 60_000 });
    const text = await page.evaluate(() => {
      const all = [...document.querySelectorAll('div')];
      all.filter(it => it.innerText?.endsWith('Export')).pop().click();
      return globalThis.saved;
    });
    await page.close();
    // What is open and closed, or a stack and its weight: both have the same sum.
    return JSON.parse(text).profiles.map(it => it.weights
      ? it.weights.reduce((all, weight) => all + weight, 0)
      : it.endValue - it.startValue);
  };
  try {
    const [bytes, pages] = await exported('speedscope.json');
    say('speedscope', 'bytes', bytes);
    say('speedscope', 'pages', pages);
    say('speedscope, of pprof', 'bytes', (await exported('pb.gz'))[0]);
    say('speedscope, of folded stacks', 'pages', (await exported('folded'))[0]);
  } finally {
    await driver.close();
    server.close();
  }
}

hdrHistogram();
await firefoxProfiler();
// It shows nothing of a profile of nothing.
if (readFileSync(file('folded')).length) await speedscope();
