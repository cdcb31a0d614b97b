// Shows the contract, to be read: nothing is sent from here, so there is nothing to authorize either.
const nothing = () => () => null;

SwaggerUIBundle({
  dom_id: "#api",
  url: "openapi.yaml",
  deepLinking: true,
  validatorUrl: null,
  supportedSubmitMethods: [],
  plugins: [
    {
      statePlugins: { spec: { wrapSelectors: { securityDefinitions: nothing } } },
      wrapComponents: {
        authorizeOperationBtn: nothing,
        // It takes an SPDX expression for the name of one licence, and its link leads nowhere.
        License: nothing,
      },
    },
  ],
});
