import { defineConfig } from "vitepress";

export default defineConfig({
  title: "NoKV",
  description: "A filesystem for AI training on Kubernetes",
  cleanUrls: true,
  themeConfig: {
    search: { provider: "local" },
    sidebar: [
      {
        text: "Use",
        items: [
          { text: "Quick start", link: "/" },
          { text: "Kubernetes", link: "/kubernetes" },
          { text: "Commands", link: "/commands" },
          { text: "Semantics", link: "/semantics" },
          { text: "Troubleshooting", link: "/troubleshooting" },
        ],
      },
      {
        text: "Understand",
        items: [
          { text: "Architecture", link: "/architecture" },
          { text: "Specification", link: "/specification" },
          { text: "Threat model", link: "/threat-model" },
          { text: "RFC 1: object keys", link: "/rfcs/0001-object-keys" },
          { text: "RFC 2: early answers", link: "/rfcs/0002-early-answers" },
          { text: "RFC 3: interrupts", link: "/rfcs/0003-interrupts" },
        ],
      },
      { text: "Develop", items: [{ text: "Checks", link: "/development/checks" }] },
    ],
  },
});
