import { defineConfig } from "vite";

// Names without digests, so that the bundle in the repository changes where its content does.
export default defineConfig({
  base: "/static/",
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    rollupOptions: {
      output: { entryFileNames: "studio.js", assetFileNames: "studio[extname]" },
    },
  },
});
