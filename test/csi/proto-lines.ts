// A .proto file as sorted lines, one for each thing that matters on the wire or to other tools: names,
// numbers, types, labels, oneofs, streams, and the specification's marks (alpha, secret). Reads the part of
// the language that csi.proto uses and throws at the rest.

type Token = string;

/** What was read, before names are resolved: `types` are written relative to `scope`. */
interface Item {
  readonly scope: string;
  readonly types: readonly string[];
  readonly line: (types: readonly string[]) => string;
}

export function protoLines(source: string): string[] {
  const tokens = source.replaceAll(/\/\/[^\n]*/g, '').match(/"[^"]*"|[\w.]+|[^\s\w]/g) ?? [];
  const items: Item[] = [];
  const declared = new Set<string>();
  let position = 0;

  const next = (): Token => {
    const token = tokens[position++];
    if (token === undefined) throw new Error('the file ends in the middle of something');
    return token;
  };
  const expect = (...wanted: Token[]): void => {
    for (const token of wanted) {
      const found = next();
      if (found !== token)
        throw new Error(`'${token}' expected before '${tokens[position]}', found '${found}'`);
    }
  };
  const peek = (): Token => tokens[position] ?? '';
  const add = (scope: string, types: readonly string[], line: Item['line']): void => {
    items.push({ scope, types, line });
  };

  /** `(name) = true`: the mark of an option's name. */
  const mark = (): string => {
    expect('(');
    const name = next();
    expect(')', '=', 'true');
    return name === 'csi_secret' ? ' secret' : ' alpha';
  };
  /** `[(a) = true, (b) = true]`, or nothing. */
  const marks = (): string => {
    if (peek() !== '[') return '';
    const found: string[] = [];
    do {
      next();
      found.push(mark());
    } while (peek() === ',');
    expect(']');
    return found.sort().reverse().join('');
  };
  /** `option (name) = true;`, if it stands here. */
  const optionMark = (): string => {
    if (peek() !== 'option') return '';
    next();
    const found = mark();
    expect(';');
    return found;
  };

  const field = (scope: string, oneof: string): void => {
    let label = '';
    if (peek() === 'repeated') label = `${next()} `;
    let type = next();
    if (type === '.') type = next(); // fully qualified
    let value = '';
    if (type === 'map') {
      expect('<');
      type = next();
      expect(',');
      value = next();
      expect('>');
    }
    const name = next();
    expect('=');
    const number = next();
    const found = marks();
    expect(';');
    const end = `${oneof === '' ? '' : ` oneof ${oneof}`}${found}`;
    add(scope, value === '' ? [type] : [type, value], ([first, second]) => {
      const resolved = second === undefined ? `${label}${first}` : `map<${first},${second}>`;
      return `field ${scope}.${name} = ${number} ${resolved}${end}`;
    });
  };

  const enumeration = (scope: string): void => {
    const name = `${scope}.${next()}`;
    declared.add(name);
    add(scope, [], () => `enum ${name}`);
    expect('{');
    while (peek() !== '}') {
      const value = next();
      expect('=');
      const number = next();
      const found = marks();
      expect(';');
      add(name, [], () => `value ${name}.${value} = ${number}${found}`);
    }
    expect('}');
  };

  const message = (scope: string): void => {
    const name = `${scope}.${next()}`;
    declared.add(name);
    expect('{');
    const found = optionMark();
    add(scope, [], () => `message ${name}${found}`);
    while (peek() !== '}') {
      if (peek() === 'message' || peek() === 'enum') {
        if (next() === 'message') message(name);
        else enumeration(name);
      } else if (peek() === 'oneof') {
        next();
        const oneof = next();
        expect('{');
        while (peek() !== '}') field(name, oneof);
        expect('}');
      } else field(name, '');
    }
    expect('}');
  };

  const service = (scope: string): void => {
    const name = `${scope}.${next()}`;
    expect('{');
    const found = optionMark();
    add(scope, [], () => `service ${name}${found}`);
    while (peek() !== '}') {
      expect('rpc');
      const method = next();
      const [request, from] = argument();
      expect('returns');
      const [response, to] = argument();
      expect('{');
      const methodMark = optionMark();
      expect('}');
      add(
        name,
        [from, to],
        ([a, b]) => `rpc ${name}.${method}(${request}${a}) -> ${response}${b}${methodMark}`,
      );
    }
    expect('}');
  };
  const argument = (): [stream: string, type: string] => {
    expect('(');
    const stream = peek() === 'stream' ? `${next()} ` : '';
    const type = next();
    expect(')');
    return [stream, type];
  };

  expect('syntax', '=', '"proto3"', ';', 'package');
  const scope = next();
  while (position < tokens.length) {
    const word = next();
    if (word === 'message') message(scope);
    else if (word === 'enum') enumeration(scope);
    else if (word === 'service') service(scope);
    else if (word === 'extend') {
      const target = next();
      expect('{');
      while (peek() !== '}') {
        const type = next();
        const name = next();
        expect('=');
        const number = next();
        expect(';');
        add(scope, [], () => `extend ${target} ${name} = ${number} ${type}`);
      }
      expect('}');
    } else if (word === 'option' || word === 'import') while (next() !== ';');
    else if (word !== ';') throw new Error(`'${word}' begins nothing that is known`);
  }

  const resolve = (type: string, from: string): string => {
    for (let outer = from; outer !== ''; outer = outer.slice(0, Math.max(0, outer.lastIndexOf('.')))) {
      if (declared.has(`${outer}.${type}`)) return `${outer}.${type}`;
    }
    return type.replace(/^\./, '');
  };
  return items.map((item) => item.line(item.types.map((type) => resolve(type, item.scope)))).sort();
}
