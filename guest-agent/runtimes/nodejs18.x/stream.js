// Streamed responses: awslambda.streamifyResponse() and what a handler made by it gets as its second
// argument. Each write is with the agent when write() returns, and so are the client's backpressure and
// its slowness: a write takes as long as the one who reads needs.
// Source: AWS Lambda Developer Guide, "Response streaming for Lambda functions".
'use strict';

const { Writable } = require('stream');
const { Fault } = require('./errors.js');
const wire = require('./wire.js');

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const DEFAULT_TYPE = 'application/octet-stream';
const PRELUDE_TYPE = 'application/vnd.awslambda.http-integration-response';
const PRELUDE_END = Buffer.alloc(8);
const PART_BYTES = 64 << 10;
const TYPE_CHARACTERS = 256;

/** The stream of the event under way: what another one writes after its end is nobody's. */
let active = null;

class ResponseStream extends Writable {
  #contentType = DEFAULT_TYPE;
  #hasBegun = false;

  constructor(options) {
    super({ decodeStrings: true, ...options });
  }

  setContentType(contentType) {
    if (this.#hasBegun) throw new Fault('Runtime.InvalidStreamingOperation', 'Cannot set content-type, too late.');
    this.#contentType = String(contentType).slice(0, TYPE_CHARACTERS);
  }

  /** Anything that is no text and no bytes is written as JSON, as in Lambda. */
  write(chunk, ...rest) {
    const isPlain = typeof chunk === 'string' || chunk instanceof Uint8Array;
    return super.write(isPlain ? chunk : JSON.stringify(chunk), ...rest);
  }

  #begin() {
    if (this.#hasBegun) return;
    this.#hasBegun = true;
    wire.answer(wire.STREAM, this.#contentType);
    // What HttpResponseStream.from() left to be written first.
    this._onBeforeFirstWrite?.((bytes) => this.#send(Buffer.from(bytes)));
  }

  #send(bytes) {
    for (let at = 0; at < bytes.length; at += PART_BYTES) wire.answer(wire.PART, bytes.subarray(at, at + PART_BYTES));
  }

  _write(chunk, encoding, done) {
    if (active === this) {
      this.#begin();
      this.#send(chunk);
    }
    done();
  }

  _final(done) {
    if (active === this) this.#begin();
    done();
  }
}

/** Gives a function URL's response its status, headers and cookies. */
class HttpResponseStream {
  static from(underlyingStream, prelude) {
    underlyingStream.setContentType(PRELUDE_TYPE);
    const head = JSON.stringify(prelude ?? {});
    underlyingStream._onBeforeFirstWrite = (write) => {
      write(head);
      write(PRELUDE_END);
    };
    return underlyingStream;
  }
}

function streamifyResponse(handler, options) {
  handler[STREAMING] = 'response';
  if (typeof options?.highWaterMark === 'number') handler[HIGH_WATER_MARK] = Math.trunc(options.highWaterMark);
  return handler;
}

function install() {
  globalThis.awslambda = { streamifyResponse, HttpResponseStream };
}

function isStreaming(handler) {
  const kind = handler[STREAMING];
  if (kind === undefined || kind === null || kind === false) return false;
  if (kind !== 'response') throw new Fault('Runtime.MalformedStreamingHandler', 'Only response streaming is supported.');
  return true;
}

/**
 * Runs @handler with a stream. @succeed is called once the promise is settled and the stream has ended,
 * @giveUp with what went wrong. Returns what to call if the event loop has run empty before that.
 */
function run(handler, event, context, succeed, giveUp) {
  const highWaterMark = handler[HIGH_WATER_MARK];
  const stream = new ResponseStream(highWaterMark > 0 ? { highWaterMark } : {});
  const fail = (error) => {
    if (active === stream) active = null;
    giveUp(error);
  };
  active = stream;
  const ended = new Promise((resolve, reject) => stream.once('finish', resolve).once('close', () => reject(stream.errored)));
  ended.catch(() => {});
  const notFinished = () => fail(new Fault('Runtime.StreamError', 'Response stream is not finished.'));
  const result = handler(event, stream, context);
  if (typeof result?.then !== 'function') {
    fail('Streaming does not support non-async handlers.');
    return notFinished;
  }
  result.then((value) => {
    if (value !== undefined) console.warn('Streaming handlers ignore return values.');
    return ended.then(succeed, (error) => (error ? fail(error) : notFinished()));
  }, fail);
  return notFinished;
}

module.exports = { install, isStreaming, run };
