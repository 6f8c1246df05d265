import { afterEach, beforeEach, expect, test } from 'vitest';
import { Health } from '../../src/observe/health.ts';
import { type HttpServer, startHttpServer } from '../../src/observe/http-server.ts';
import { silentLogger } from '../../src/observe/log.ts';

let health: Health;
let server: HttpServer;

beforeEach(async () => {
  health = new Health();
  const metrics = async () => ({ contentType: 'text/plain', text: '' });
  server = await startHttpServer({ host: '127.0.0.1', port: 0, health, metrics, log: silentLogger });
});
afterEach(() => server.close());

async function ask(path: string): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`http://127.0.0.1:${server.port}${path}`, {
    signal: AbortSignal.timeout(5000),
  });
  return { status: response.status, body: await response.json() };
}

test('a daemon is ready while it serves', async () => {
  expect(await ask('/readyz')).toMatchObject({ status: 503, body: { ready: false, phase: 'starting' } });
  health.enter('serving');
  expect(await ask('/readyz')).toMatchObject({ status: 200, body: { ready: true, problem: null } });
});

test('a daemon whose store failed is alive but not ready, and says why', async () => {
  health.enter('serving');
  health.askFor(async () => 'the store failed');
  expect(await ask('/readyz')).toMatchObject({
    status: 503,
    body: { ready: false, problem: 'the store failed' },
  });
  expect(await ask('/healthz')).toMatchObject({ status: 200, body: { healthy: true } });
});
