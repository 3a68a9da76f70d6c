// What a function prints: its console's lines as Lambda has them, and stdout and stderr that have been
// written when write() returns. Node.js makes pipes non-blocking, and what does not fit waits for the
// event loop; this runtime does not turn the loop between events.
'use strict';

const util = require('util');
const errors = require('./errors.js');
const wire = require('./wire.js');

const STDOUT_FD = 1;
const STDERR_FD = 2;
const LEVELS = { TRACE: 1, DEBUG: 2, INFO: 3, WARN: 4, ERROR: 5, FATAL: 6 };

let requestId; // "undefined" in the log until the first event, as in Lambda

function write(fd, text) {
  const bytes = Buffer.from(text);
  try {
    wire.writeAll(fd, bytes, bytes.length);
  } catch {
    // The function closed it.
  }
}

function formatLine(level, values) {
  return `${new Date().toISOString()}\t${requestId}\t${level}\t${util.format(...values)}\n`;
}

function patchConsole() {
  const lowest = LEVELS[process.env.AWS_LAMBDA_LOG_LEVEL?.toUpperCase()] ?? LEVELS.TRACE;
  const logger = (level) =>
    LEVELS[level] < lowest ? () => {} : (...values) => write(STDOUT_FD, formatLine(level, values));
  console.trace = logger('TRACE');
  console.debug = logger('DEBUG');
  console.info = logger('INFO');
  console.log = console.info;
  console.warn = logger('WARN');
  console.error = logger('ERROR');
}

function logError(what, error) {
  write(STDOUT_FD, formatLine('ERROR', [what, errors.format(error)]));
}

function makeStream(fd) {
  const { Writable } = require('stream');
  const stream = new Writable({
    decodeStrings: true,
    write(chunk, encoding, done) {
      try {
        wire.writeAll(fd, chunk, chunk.length);
        done();
      } catch (error) {
        done(error);
      }
    },
    destroy(error, done) {
      done(error);
    },
  });
  stream.fd = fd;
  stream._type = 'pipe';
  stream._isStdio = true;
  stream.destroySoon = stream.destroy;
  return stream;
}

/** process.stdout and process.stderr, made when they are first asked for. */
function replaceStreams() {
  for (const [name, fd] of [['stdout', STDOUT_FD], ['stderr', STDERR_FD]]) {
    let stream;
    Object.defineProperty(process, name, {
      configurable: true,
      enumerable: true,
      get() {
        stream ??= makeStream(fd);
        return stream;
      },
    });
  }
}

function setRequestId(id) {
  requestId = id;
}

function rehearse() {
  Buffer.from(formatLine('INFO', ['%s is %d', 'rehearsed', 1, { a: ['é'] }]));
}

module.exports = { patchConsole, replaceStreams, logError, setRequestId, rehearse };
