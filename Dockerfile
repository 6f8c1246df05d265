# The image of `holdfast daemon`, with every tool that it calls: mkfs, mount, modprobe, cryptsetup.
#   docker build -t holdfast .
# Run it privileged, with the host's /dev, /sys, /lib/modules and kubelet directory: see deploy/.

FROM node:24-bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ util-linux \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/holdfast
COPY package.json package-lock.json .npmrc ./
# The Node.js that runs Holdfast is one of these packages, pinned by the lockfile (docs/adr/0001-pinned-node.md).
RUN npm ci --ignore-scripts
COPY . .
RUN sh native/build.sh \
 && PATH="$(echo /opt/holdfast/node_modules/node-linux-*/bin):$PATH" node scripts/build.ts \
 && npm prune --omit=dev --ignore-scripts

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      e2fsprogs xfsprogs util-linux mount kmod cryptsetup-bin ca-certificates \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/holdfast
COPY --from=build /opt/holdfast/package.json ./
COPY --from=build /opt/holdfast/bin ./bin
COPY --from=build /opt/holdfast/dist ./dist
COPY --from=build /opt/holdfast/proto ./proto
COPY --from=build /opt/holdfast/native/build/holdfast.node /opt/holdfast/native/build/launch ./native/build/
COPY --from=build /opt/holdfast/node_modules ./node_modules
RUN ln -s /opt/holdfast/bin/holdfast /usr/local/bin/holdfast
ENTRYPOINT ["holdfast"]
CMD ["daemon"]
