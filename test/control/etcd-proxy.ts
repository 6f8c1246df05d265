// A TCP proxy that is a bad network: it stalls either direction (what was sent arrives later, when it is
// healed), or cuts all connections and refuses new ones.

import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
}

export class EtcdProxy {
  readonly #targetPort: number;
  readonly #pairs = new Set<Pair>();
  readonly #listener: Server;
  #stalled = { toServer: false, toClient: false };
  #isCut = false;

  static async start(targetPort: number): Promise<EtcdProxy> {
    const proxy = new EtcdProxy(targetPort);
    proxy.#listener.listen(0, '127.0.0.1');
    await once(proxy.#listener, 'listening');
    return proxy;
  }

  private constructor(targetPort: number) {
    this.#targetPort = targetPort;
    this.#listener = createServer((client) => this.#accept(client));
  }

  get address(): string {
    return `127.0.0.1:${(this.#listener.address() as AddressInfo).port}`;
  }

  stall(directions: { readonly toServer?: boolean; readonly toClient?: boolean }): void {
    this.#stalled = { toServer: false, toClient: false, ...directions };
    for (const pair of this.#pairs) this.#apply(pair);
  }

  /** Ends all connections with a reset; those that come are reset, too. */
  cut(): void {
    this.#isCut = true;
    for (const pair of this.#pairs) end(pair);
  }

  heal(): void {
    this.#isCut = false;
    this.stall({});
  }

  async dispose(): Promise<void> {
    this.cut();
    this.#listener.close();
    await once(this.#listener, 'close');
  }

  #accept(client: Socket): void {
    if (this.#isCut) {
      client.resetAndDestroy();
      return;
    }
    const pair: Pair = { client, server: connect(this.#targetPort, '127.0.0.1') };
    this.#pairs.add(pair);
    for (const socket of [pair.client, pair.server]) {
      socket.setNoDelay(true);
      socket.on('error', () => end(pair));
      socket.on('close', () => {
        end(pair);
        this.#pairs.delete(pair);
      });
    }
    pair.client.on('data', (data) => pair.server.write(data));
    pair.server.on('data', (data) => pair.client.write(data));
    this.#apply(pair);
  }

  #apply({ client, server }: Pair): void {
    if (this.#stalled.toServer) client.pause();
    else client.resume();
    if (this.#stalled.toClient) server.pause();
    else server.resume();
  }
}

function end({ client, server }: Pair): void {
  client.resetAndDestroy();
  server.destroy();
}
