// Shows the contract, to be read: nothing is sent from here, so there is nothing to authorize either.
const nothing = () => () => null;

SwaggerUIBundle({
  dom_id: "#api",
  url: "openapi.yaml",
  deepLinking: true,
  validatorUrl: null,
  supportedSubmitMethods: [],
  plugins: [{ wrapComponents: { authorizeBtn: nothing, authorizeOperationBtn: nothing } }],
});
