// Preloaded by `node --import`: makes the example's `import "express"` load Express 4, which is installed here as express4.

import { register } from "node:module";

const hook = `
  export const resolve = (name, context, next) =>
    name === "express" ? next("express4", { ...context, parentURL: "${import.meta.url}" }) : next(name, context);`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);
