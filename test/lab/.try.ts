import { Guest } from './guest.ts';
await using guest = await Guest.start({ timeoutMs: 250_000, memoryMib: 768, modules: ['loop'] });
const job = guest.start([process.execPath, process.argv[2] as string], { timeoutMs: Number(process.argv[3] ?? 100_000) });
try { console.log(await job.ended); } catch (e) { console.log(String(e), await job.stdout(), await job.stderr()); }
console.log((await guest.run('cat /run/daemon.log')).stdout.slice(-6000));
console.log((await guest.run('ps axo pid,stat,wchan:32,args | grep -v "\\[" | tail -30')).stdout);
console.log((await guest.kernelLog()).split('\n').slice(-40).join('\n'));
