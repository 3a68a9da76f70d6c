// Messages from the agent, answers to it: ../README.md has the layout. Both pipes block.
'use strict';

const fs = require('fs');

const EVENT_FD = 3;
const ANSWER_FD = 4;
const HEADER_BYTES = 40;
const PARTS = 6;
const BUFFER_BYTES = 64 << 10;
const ANSWER_HEADER = 8;
const SMALL_CHARACTERS = 16 << 10;

// Kinds of messages.
const kinds = { EVENT: 0, LOAD: 1, FREEZE: 2, RESTORE: 3, DRAW: 4 };
// Kinds of answers.
const words = {
  READY: 0,
  INIT_ERROR: 1,
  RESULT: 2,
  ERROR: 3,
  TOO_LARGE: 4,
  PRELOADED: 5,
  AT_REST: 6,
  FREEZE_ERROR: 7,
  AWAKE: 8,
  RESTORE_ERROR: 9,
  LAST_ERROR: 10,
  WANTS_DRAW: 11,
  STREAM: 12,
  PART: 13,
};

const buffer = Buffer.alloc(BUFFER_BYTES);
let start = 0; // [start, end) has been read and not been taken yet
let end = 0;

const small = Buffer.alloc(ANSWER_HEADER + 3 * SMALL_CHARACTERS);

/** Reads at least one byte to @at of @target; 0 only if the agent has gone. */
function more(target, at) {
  return fs.readSync(EVENT_FD, target, at, target.length - at, null);
}

/** Has at least @count bytes at start; false if the agent has gone. */
function fill(count) {
  if (start + count > BUFFER_BYTES) {
    buffer.copyWithin(0, start, end);
    end -= start;
    start = 0;
  }
  while (end - start < count) {
    const got = more(buffer, end);
    if (got === 0) return false;
    end += got;
  }
  return true;
}

function takeLarge(total) {
  const large = Buffer.allocUnsafeSlow(total);
  let have = buffer.copy(large, 0, start, end);
  start = end = 0;
  while (have < total) {
    const got = more(large, have);
    if (got === 0) return null;
    have += got;
  }
  return large;
}

function take(total) {
  if (total > BUFFER_BYTES) return takeLarge(total);
  if (!fill(total)) return null;
  const view = buffer.subarray(start, start + total);
  start += total;
  return view;
}

/** The next message, or null if the agent has gone. Its parts are valid until the next call. */
function read() {
  if (start === end) start = end = 0;
  if (!fill(HEADER_BYTES)) return null;
  const lengths = [];
  let total = HEADER_BYTES;
  for (let i = 0; i < PARTS; i++) {
    lengths.push(buffer.readUInt32LE(start + 16 + 4 * i));
    total += lengths[i];
  }
  const view = take(total);
  if (view === null) return null;
  const parts = [];
  let at = HEADER_BYTES;
  for (const length of lengths) {
    parts.push(view.subarray(at, at + length));
    at += length;
  }
  return { kind: view[0], wantsAnswer: (view[1] & 1) !== 0, deadlineMs: Number(view.readBigUInt64LE(8)), parts };
}

/** Writes all of @bytes; a write is only cut short by a signal of the function's. */
function writeAll(fd, bytes, length) {
  for (let sent = 0; sent < length; ) sent += fs.writeSync(fd, bytes, sent, length - sent);
}

function fillHeader(target, kind, length) {
  target.writeUInt32LE(kind, 0);
  target.writeUInt32LE(length, 4);
}

/** @body: text or bytes. What is small goes out in one piece. */
function answer(kind, body = '') {
  const isText = typeof body === 'string';
  if (isText && body.length > SMALL_CHARACTERS) return answer(kind, Buffer.from(body));
  if (isText || body.length <= small.length - ANSWER_HEADER) {
    const length = isText ? small.write(body, ANSWER_HEADER) : body.copy(small, ANSWER_HEADER);
    fillHeader(small, kind, length);
    writeAll(ANSWER_FD, small, ANSWER_HEADER + length);
    return undefined;
  }
  fillHeader(small, kind, body.length);
  writeAll(ANSWER_FD, small, ANSWER_HEADER);
  writeAll(ANSWER_FD, body, body.length);
  return undefined;
}

function text(bytes) {
  return bytes.toString('utf8');
}

/** What answer() does with a small body, but for the write. */
function rehearse() {
  fillHeader(small, words.RESULT, small.write('{"a":"é"}', ANSWER_HEADER));
}

module.exports = { ...kinds, ...words, read, answer, text, writeAll, rehearse };
