// The interface that the specification's own Go module describes, as lines (see proto-lines.ts). The module
// comes from the Go module proxy; its generated code holds the compiled descriptor as a list of bytes, so
// that nothing needs to be built: `go` is used only to fetch and verify it.

import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

const MODULE = 'github.com/container-storage-interface/spec@v1.12.0';
const FETCH_TIMEOUT_MS = 60_000;

export async function officialLines(): Promise<string[]> {
  const result = await execa('go', ['mod', 'download', '-json', MODULE], {
    cwd: tmpdir(), // outside of any module
    env: { PATH: `${process.env['PATH'] ?? ''}:/usr/local/go/bin` },
    timeout: FETCH_TIMEOUT_MS,
    reject: false,
  });
  if (result.failed) {
    throw new Error(
      `${MODULE} cannot be fetched: ${result.shortMessage ?? ''} ${result.stderr ?? ''}\n` +
        'Install Go 1.25 or newer (https://go.dev/dl, put its bin on PATH) and allow the Go module proxy (go env GOPROXY).',
    );
  }
  const { Dir: directory } = JSON.parse(result.stdout) as { Dir: string };
  const source = readFileSync(join(directory, 'lib/go/csi/csi.pb.go'), 'utf8');
  const list = /file_csi_proto_rawDesc = \[\]byte\{([^}]*)\}/.exec(source)?.[1];
  if (list === undefined)
    throw new Error(`${MODULE} keeps its descriptor in another place than this test knows`);
  return fileLines(
    decode(Buffer.from([...list.matchAll(/0x([0-9a-f]{2})/g)].map(([, hex]) => parseInt(hex ?? '', 16)))),
  );
}

/** A message of protobuf's wire format: field number → values, in order. */
type Wire = ReadonlyMap<number, readonly (number | Buffer)[]>;

function decode(bytes: Buffer): Wire {
  const fields = new Map<number, (number | Buffer)[]>();
  let offset = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes.readUInt8(offset++);
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (offset < bytes.length) {
    const tag = varint();
    const values = fields.get(tag >> 3) ?? [];
    fields.set(tag >> 3, values);
    if ((tag & 7) === 0) values.push(varint());
    else if ((tag & 7) === 2) {
      const length = varint();
      values.push(bytes.subarray(offset, offset + length));
      offset += length;
    } else throw new Error(`wire type ${tag & 7} does not occur in descriptors`);
  }
  return fields;
}

const text = (wire: Wire, field: number): string => wire.get(field)?.[0]?.toString() ?? '';
const number = (wire: Wire, field: number): number => Number(wire.get(field)?.[0] ?? 0);
const children = (wire: Wire, field: number): Wire[] =>
  (wire.get(field) ?? []).map((bytes) => decode(bytes as Buffer));

// The numbers below are those of google/protobuf/descriptor.proto.

const SCALARS: Readonly<Record<number, string>> = { 3: 'int64', 5: 'int32', 8: 'bool', 9: 'string' };
const REPEATED = 3;
const ALPHA = 1060;
const SECRET = 1059;

function fileLines(file: Wire): string[] {
  const scope = text(file, 2);
  return [
    ...children(file, 4).flatMap((message) => messageLines(message, scope)),
    ...children(file, 5).flatMap((type) => enumLines(type, scope)),
    ...children(file, 6).flatMap((service) => serviceLines(service, scope)),
    ...children(file, 7).map(
      (field) =>
        `extend ${text(field, 2).slice(1)} ${text(field, 1)} = ${number(field, 3)} ${SCALARS[number(field, 5)]}`,
    ),
  ].sort();
}

function marks(options: Wire | undefined): string {
  if (options === undefined) return '';
  return `${number(options, SECRET) === 1 ? ' secret' : ''}${number(options, ALPHA) === 1 ? ' alpha' : ''}`;
}

function messageLines(message: Wire, scope: string): string[] {
  const name = `${scope}.${text(message, 1)}`;
  const oneofs = children(message, 8).map((oneof) => text(oneof, 1));
  const entries = new Map<string, Wire>();
  for (const nested of children(message, 3)) {
    const isMapEntry = number(children(nested, 7)[0] ?? new Map(), 7) === 1;
    if (isMapEntry) entries.set(`.${name}.${text(nested, 1)}`, nested);
  }
  const typeOf = (field: Wire): string => SCALARS[number(field, 5)] ?? text(field, 6).slice(1);
  const fieldLine = (field: Wire): string => {
    const entry = entries.get(text(field, 6));
    const [key, value] = entry === undefined ? [] : children(entry, 2);
    const type =
      key !== undefined && value !== undefined
        ? `map<${typeOf(key)},${typeOf(value)}>`
        : `${number(field, 4) === REPEATED ? 'repeated ' : ''}${typeOf(field)}`;
    const oneof = field.has(9) ? ` oneof ${oneofs[number(field, 9)]}` : '';
    return `field ${name}.${text(field, 1)} = ${number(field, 3)} ${type}${oneof}${marks(children(field, 8)[0])}`;
  };
  return [
    `message ${name}${marks(children(message, 7)[0])}`,
    ...children(message, 2).map(fieldLine),
    ...children(message, 3)
      .filter((nested) => !entries.has(`.${name}.${text(nested, 1)}`))
      .flatMap((nested) => messageLines(nested, name)),
    ...children(message, 4).flatMap((type) => enumLines(type, name)),
  ];
}

function enumLines(type: Wire, scope: string): string[] {
  const name = `${scope}.${text(type, 1)}`;
  return [
    `enum ${name}${marks(children(type, 3)[0])}`,
    ...children(type, 2).map(
      (value) => `value ${name}.${text(value, 1)} = ${number(value, 2)}${marks(children(value, 3)[0])}`,
    ),
  ];
}

function serviceLines(service: Wire, scope: string): string[] {
  const name = `${scope}.${text(service, 1)}`;
  return [
    `service ${name}${marks(children(service, 3)[0])}`,
    ...children(service, 2).map((method) => {
      const stream = (field: number): string => (number(method, field) === 1 ? 'stream ' : '');
      const from = `${stream(5)}${text(method, 2).slice(1)}`;
      const to = `${stream(6)}${text(method, 3).slice(1)}`;
      return `rpc ${name}.${text(method, 1)}(${from}) -> ${to}${marks(children(method, 4)[0])}`;
    }),
  ];
}
