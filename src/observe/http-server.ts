// /metrics, /healthz and /readyz over HTTP, for machines on the inside: no secrets, nothing that changes
// state. Listens only when asked to.

import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { errorText, HoldfastError } from '../core/errors.ts';
import type { Health } from './health.ts';
import type { Logger } from './log.ts';

export interface HttpServer {
  /** The port that it got, where 0 was asked for. */
  readonly port: number;
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 64;
const REQUEST_TIMEOUT_MS = 10_000;

export async function startHttpServer(options: {
  host: string;
  port: number;
  health: Health;
  metrics: () => Promise<{ contentType: string; text: string }>;
  log: Logger;
}): Promise<HttpServer> {
  const { host, port, health, metrics, log } = options;

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const reply = (status: number, contentType: string, text: string): void => {
      response.writeHead(status, { 'content-type': contentType, 'cache-control': 'no-store' });
      response.end(request.method === 'HEAD' ? undefined : text);
    };
    if (request.method !== 'GET' && request.method !== 'HEAD') return reply(405, 'text/plain', 'only GET\n');
    const report = health.report();
    const [path = ''] = (request.url ?? '').split('?');
    switch (path) {
      case '/metrics': {
        const { contentType, text } = await metrics();
        return reply(200, contentType, text);
      }
      case '/healthz':
        return reply(report.healthy ? 200 : 503, 'application/json', `${JSON.stringify(report)}\n`);
      case '/readyz': {
        const problem = (await health.problem()) ?? null;
        const ready = report.ready && problem === null;
        const text = JSON.stringify({ ...report, ready, problem });
        return reply(ready ? 200 : 503, 'application/json', `${text}\n`);
      }
      default:
        return reply(404, 'text/plain', 'try /metrics, /healthz or /readyz\n');
    }
  };

  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS });
  server.maxConnections = MAX_CONNECTIONS;
  server.on('request', (request, response) => {
    answer(request, response).catch((error: unknown) => {
      log.warn({ error, url: request.url }, 'HTTP request failed');
      if (response.headersSent) response.destroy();
      else response.writeHead(500).end();
    });
  });
  server.listen({ host, port });
  try {
    await once(server, 'listening');
  } catch (error) {
    throw new HoldfastError('IO', `--metrics ${host}:${port}: ${errorText(error)}; give it a free address`, {
      cause: error,
    });
  }

  return {
    port: (server.address() as AddressInfo).port,
    async close(): Promise<void> {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
