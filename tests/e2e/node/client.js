// grpc-js, loaded from our own text of the protocol, against one daemon: `node client.js ADDRESS`.
// Prints what it got as one JSON object; tests/e2e/test_node.py judges it.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, '..', '..', '..', 'proto');
const LIMIT_MS = 10_000;
const FOREVER = '4611686018427387904';

const definition = loader.loadSync('inference.proto', { includeDirs: [PROTO], keepCase: true, longs: String, defaults: true });
const { inference } = grpc.loadPackageDefinition(definition);

function call(client, method, request, limitMs = LIMIT_MS) {
  return new Promise((resolve) => {
    client[method](request, { deadline: Date.now() + limitMs }, (error, answer) => resolve({ error, answer }));
  });
}

function floats(numbers) {
  const bytes = Buffer.alloc(4 * numbers.length);
  numbers.forEach((number, index) => bytes.writeFloatLE(number, 4 * index));
  return bytes;
}

function numbersOf(answer) {
  const raw = answer.raw_output_contents[0];
  return Array.from({ length: raw.length / 4 }, (_, index) => raw.readFloatLE(4 * index));
}

function versionsRequest(number, fields = {}) {
  return {
    model_name: 'versions',
    id: String(number),
    inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 2] }],
    raw_input_contents: [floats([number, -number])],
    ...fields,
  };
}

function spinRequest(turns) {
  return {
    model_name: 'spin',
    inputs: [{ name: 'turns', datatype: 'INT64', shape: [1, 1], contents: { int64_contents: [turns] } }],
  };
}

function named({ error, answer }) {
  return error ? [grpc.status[error.code], error.details] : ['OK', numbersOf(answer)];
}

function stream(client, requests) {
  return new Promise((resolve, reject) => {
    const got = [];
    const both = client.ModelStreamInfer({ deadline: Date.now() + LIMIT_MS });
    both.on('data', (message) => {
      const { id, parameters } = message.infer_response;
      const final = parameters.triton_final_response;
      got.push(message.error_message ? [id, message.error_message] : [id, numbersOf(message.infer_response)[0], final.bool_param]);
    });
    both.on('error', reject);
    both.on('end', () => resolve(got));
    requests.forEach((request) => both.write(request));
    both.end();
  });
}

async function cancelled(client) {
  const outcome = new Promise((resolve) => {
    const running = client.ModelInfer(spinRequest(FOREVER), (error) => resolve(grpc.status[error.code]));
    setImmediate(() => running.cancel());
  });
  return outcome;
}

async function main(address) {
  const client = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());
  const requests = [1, 2, 3].map((number) => versionsRequest(number));
  requests[1].model_name = 'nobody';
  const began = Date.now();
  const late = await call(client, 'ModelInfer', spinRequest(FOREVER), 200);
  const result = {
    ready: (await call(client, 'ServerReady', {})).answer.ready,
    metadata: (await call(client, 'ModelMetadata', { name: 'simple' })).answer.inputs,
    answer: named(await call(client, 'ModelInfer', versionsRequest(4))),
    version: named(await call(client, 'ModelInfer', versionsRequest(4, { model_version: '1' }))),
    unknown: named(await call(client, 'ModelInfer', versionsRequest(4, { model_name: 'nobody' }))),
    mistaken: named(await call(client, 'ModelInfer', versionsRequest(4, { inputs: [] }))),
    unimplemented: named(await call(client, 'TraceSetting', {})),
    late: [grpc.status[late.error.code], Date.now() - began],
    cancelled: await cancelled(client),
    stream: await stream(client, requests),
  };
  client.close();
  return result;
}

main(process.argv[2]).then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
