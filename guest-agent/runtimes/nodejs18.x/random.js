// Randomness that clones of a snapshot must not share.
//
// - Math.random(): V8 seeds it once and has no way to seed it again. So it is replaced, before the
//   function's code can get hold of it, by a generator that has one (Chris Doty-Humphrey's sfc32).
// - crypto.randomUUID() and crypto.randomInt() hand out what they drew ahead: 128 UUIDs, 6 KiB. Their
//   stock is used up before the first call after a restoration.
// - OpenSSL's generator: it draws new entropy from the kernel when the time of its last seed is in the
//   future, and snapshot.js sees to it that it is. Its first use after a restoration is here.
'use strict';

const UUID_STOCK = 128;
const INT_STOCK = (6 << 10) / 6;
const TWO_TO_32 = 2 ** 32;
const WARM_UP = 16;

const state = new Int32Array(4);
const markStale = [];

function next32() {
  const sum = (state[0] + state[1] + state[3]) | 0;
  state[3] = (state[3] + 1) | 0;
  state[0] = state[1] ^ (state[1] >>> 9);
  state[1] = (state[2] + (state[2] << 3)) | 0;
  state[2] = (((state[2] << 21) | (state[2] >>> 11)) + sum) | 0;
  return sum >>> 0;
}

/** 53 bits, in [0, 1). */
function random() {
  return ((next32() >>> 5) * 67108864 + (next32() >>> 6)) / 9007199254740992;
}

function seedMath(words) {
  state.set(words);
  for (let i = 0; i < WARM_UP; i++) next32();
}

/** @call, but once after each restoration @use runs @count times before it. */
function usingUp(call, count, use) {
  let isStale = false;
  markStale.push(() => {
    isStale = true;
  });
  return Object.defineProperties(
    function (...values) {
      if (isStale) {
        isStale = false;
        for (let i = 0; i < count; i++) use();
      }
      return Reflect.apply(call, this, values);
    },
    { name: { value: call.name }, length: { value: call.length } },
  );
}

function patchCrypto() {
  const crypto = require('crypto');
  const { randomUUID, randomInt, webcrypto } = crypto;
  crypto.randomUUID = usingUp(randomUUID, UUID_STOCK, () => randomUUID());
  crypto.randomInt = usingUp(randomInt, INT_STOCK, () => randomInt(2));
  const prototype = webcrypto && Object.getPrototypeOf(webcrypto);
  if (typeof prototype?.randomUUID === 'function') {
    prototype.randomUUID = usingUp(prototype.randomUUID, UUID_STOCK, () => randomUUID());
  }
  require('module').syncBuiltinESMExports();
}

/** Before any code of the function. */
function install() {
  const native = Math.random;
  seedMath(Array.from({ length: 4 }, () => native() * TWO_TO_32));
  Object.defineProperty(Math, 'random', { value: random, writable: true, configurable: true });
  patchCrypto();
}

/** One use of OpenSSL's generator. */
function draw() {
  const bytes = Buffer.alloc(16);
  require('crypto').randomFillSync(bytes);
  return bytes;
}

/** In a clone. @seed: 32 bytes that no other clone has, or none. */
function renew(seed) {
  const drawn = draw();
  const words = [0, 4, 8, 12].map((at) =>
    seed.length >= 32 ? drawn.readInt32LE(at) ^ seed.readInt32LE(at) ^ seed.readInt32LE(at + 16) : drawn.readInt32LE(at),
  );
  seedMath(words);
  // What is seeded only now, such as Math.random() of another context.
  require('v8').setFlagsFromString(`--random-seed=${(next32() >>> 1) | 1}`);
  for (const mark of markStale) mark();
}

module.exports = { install, draw, renew };
