// The nodejs18.x runtime's part in snapshots: what it loads ahead of any function, coming to rest
// before one is taken, and becoming somebody in each process that was restored from it.
'use strict';

const v8 = require('v8');
const { performance } = require('perf_hooks');
const hooks = require('./mayfly');
const random = require('./random.js');
const wire = require('./wire.js');

// What most functions need, or their libraries do. Their pages are shared by all clones of all
// functions. Not undici (fetch): half a megabyte of source for those few that use it.
const PRELOADED_MODULES = `
  assert async_hooks buffer child_process crypto dns events fs fs/promises http https net os path
  perf_hooks querystring stream stream/promises string_decoder timers timers/promises tls tty url util
  v8 vm worker_threads zlib
`.trim().split(/\s+/);
const REHEARSALS = 3;

/** @block: NAME=VALUE, each with a 0 after it. */
function setEnvironment(block) {
  for (const entry of block.split('\0').slice(0, -1)) {
    const equals = entry.indexOf('=');
    process.env[entry.slice(0, equals)] = entry.slice(equals + 1);
  }
}

/** What node would have read from the environment if it had been started with it. */
function followEnvironment() {
  require('module')._initPaths(); // NODE_PATH
  const options = (process.env.NODE_OPTIONS ?? '').split(/[\s=]+/).filter(Boolean);
  if (options.includes('--enable-source-maps')) process.setSourceMapsEnabled(true);
  options.forEach((option, i) => {
    if (option === '-r' || option === '--require') require(require.resolve(options[i + 1], { paths: [process.cwd()] }));
  });
}

/** performance.timeOrigin is the wall clock of a start that other clones share. */
function renewTimeOrigin() {
  Object.defineProperty(performance, 'timeOrigin', {
    value: Date.now() - performance.now(),
    configurable: true,
    enumerable: true,
  });
}

/** Makes this process differ from its siblings. @seed: see random.renew(). */
function renew(seed) {
  random.renew(seed);
  renewTimeOrigin();
}

/** V8's full collection, without the --expose-gc that would give it to the function. */
function makeCollector() {
  v8.setFlagsFromString('--expose-gc');
  const collect = require('vm').runInNewContext('gc');
  v8.setFlagsFromString('--no-expose-gc');
  return collect;
}

const collectGarbage = makeCollector();

/** Garbage gone, the paths of an invocation compiled and its memory in use. */
function settle(rehearse) {
  for (let i = 0; i < REHEARSALS; i++) rehearse();
  collectGarbage();
  rehearse();
  // OpenSSL's generator shall date its seed far ahead: see random.js, and the agent's begin_draw().
  wire.answer(wire.WANTS_DRAW);
  const message = wire.read();
  if (message === null) process.reallyExit(0);
  random.draw();
}

/** Preload: returns once this is a certain function's process. */
async function waitForFunction(rehearse) {
  for (const name of PRELOADED_MODULES) require(name);
  await import('data:text/javascript,'); // the loader of ES modules
  settle(rehearse);
  wire.answer(wire.PRELOADED);
  const message = wire.read();
  if (message === null) process.reallyExit(0);
  for (const name of Object.keys(process.env)) delete process.env[name];
  setEnvironment(wire.text(message.parts[0]));
  renew(Buffer.alloc(0));
  followEnvironment();
}

/** Calls @list one after the other; a promise only once one of them returned one. */
function runAll(list) {
  for (let i = 0; i < list.length; i++) {
    const result = list[i]();
    if (typeof result?.then === 'function') return Promise.resolve(result).then(() => runAll(list.slice(i + 1)));
  }
  return undefined;
}

function runBeforeSnapshot() {
  return runAll([...hooks.getBeforeSnapshot()].reverse());
}

function runAfterRestore() {
  return runAll(hooks.getAfterRestore());
}

module.exports = { setEnvironment, renew, settle, waitForFunction, runBeforeSnapshot, runAfterRestore };
