// The AWS SDK for JavaScript against mayflyd: sdk_client.mjs ENDPOINT ZIP; prints one JSON object.
// Credentials come from the environment, as always.
import { readFileSync } from "node:fs";
import * as sdk from "@aws-sdk/client-lambda";

const [endpoint, zip] = process.argv.slice(2);
const client = new sdk.LambdaClient({ endpoint, region: "eu-central-1" });
const call = (name, input) => client.send(new sdk[name + "Command"](input));
const seen = {};

const created = await call("CreateFunction", {
  FunctionName: "js", Runtime: "python3.11", Handler: "app.handler",
  Role: "arn:aws:iam::000000000000:role/r", Code: { ZipFile: readFileSync(zip) },
});
seen.state = created.State;
await sdk.waitUntilFunctionActiveV2({ client, maxWaitTime: 900 }, { FunctionName: "js" });
const answer = await call("Invoke", {
  FunctionName: "js", Payload: JSON.stringify({ text: "a b a" }), LogType: "Tail",
});
seen.words = JSON.parse(answer.Payload.transformToString()).words;
seen.log = Buffer.from(answer.LogResult, "base64").toString();
const streamed = await call("InvokeWithResponseStream", {
  FunctionName: "js", Payload: JSON.stringify({ text: "a b" }),
});
let text = "";
for await (const event of streamed.EventStream) {
  if (event.PayloadChunk) text += Buffer.from(event.PayloadChunk.Payload).toString();
  if (event.InvokeComplete) seen.complete = true;
}
seen.streamed_words = JSON.parse(text).words;
try {
  await call("GetFunction", { FunctionName: "not-there" });
} catch (error) {
  seen.error = [error.name, error.$metadata.httpStatusCode, error instanceof sdk.ResourceNotFoundException];
}
seen.listed = (await call("ListFunctions", {})).Functions.map((f) => f.FunctionName);
await call("DeleteFunction", { FunctionName: "js" });
console.log(JSON.stringify(seen));
